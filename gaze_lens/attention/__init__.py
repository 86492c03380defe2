"""The attention function under the model, the edits that it serves, and the readers of its rows."""
