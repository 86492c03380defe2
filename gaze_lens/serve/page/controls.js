// How the model is steered: the tool, strength or mass, and the number of heads.

export class Controls {
  // $: an element by its id. changed: called where the steering is another one
  constructor($, stage, changed) {
    Object.assign(this, { $, stage, changed });
    for (const id of ["strength", "mass", "heads"]) $(id).addEventListener("input", () => this.update());
    $("by").addEventListener("change", () => this.update());
    for (const tool of ["regions", "spotlight"]) $(`with-${tool}`).addEventListener("change", () => this.choose(tool));
    $("snap").addEventListener("change", (event) => { stage.snap = event.target.checked; });
    $("radius").addEventListener("input", (event) => stage.spotlight.resize(Number(event.target.value)));
    stage.spotlight.resized = () => this.showRadius();
    $("settings").open = matchMedia("(min-width: 60.01rem)").matches;
  }

  begin(nHeads) {
    [this.$("heads").max, this.$("heads").value, this.$("heads-row").hidden] = [nHeads, nHeads, nHeads < 2];
    this.choose(document.querySelector("[name=tool]:checked").value); // browsers keep it over a reload
    this.stage.snap = this.$("snap").checked;
    this.update();
  }

  choose(tool) {
    this.stage.tool = tool;
    this.stage.hold(null);
    this.$("radius-row").hidden = tool !== "spotlight";
  }

  strength() { return Number((10 ** Number(this.$("strength").value)).toPrecision(2)); }

  // The part of a target that says how, as the server takes it.
  how() {
    const by = this.$("by").value;
    const amount = by === "mass" ? Number(this.$("mass").value) / 100 : this.strength();
    return { [by]: amount, n_heads: Number(this.$("heads").value) };
  }

  update() {
    const mass = this.$("by").value === "mass";
    [this.$("strength-row").hidden, this.$("mass-row").hidden] = [mass, !mass];
    this.show("strength", this.strength().toLocaleString("en"), "logits");
    this.show("mass", `${this.$("mass").value} %`, "of attention");
    this.show("heads", this.$("heads").value, `of ${this.$("heads").max} heads`);
    this.changed();
  }

  showRadius() {
    const { spotlight } = this.stage;
    [this.$("radius").min, this.$("radius").max] = spotlight.bounds();
    this.$("radius").value = spotlight.radius;
    this.show("radius", `${spotlight.radius} px`, "");
  }

  show(id, text, unit) {
    this.$(`${id}-value`).textContent = text;
    this.$(id).setAttribute("aria-valuetext", `${text} ${unit}`.trim());
  }
}
