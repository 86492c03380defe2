"""The study of docs/text_heads.md: heads of SmolLM2-135M-Instruct that follow segments of a text.

python -m studies.text_heads --out docs/text_heads     # all steps; what has its file is not done again
"""
