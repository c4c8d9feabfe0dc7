"""Runs the scripts of the gallery and writes docs/gallery.md from what they found.

Run: make gallery   (or python examples/gallery.py [NAME ...] for some sections only, in an environment that has them)
"""

import subprocess
import sys
from pathlib import Path

from gallery_section import SECTIONS

HERE = Path(__file__).parent
NAMES = ("text", "images", "residual", "table")
INTRODUCTION = """# Gallery: networks that nobody here wrote

`fg.analyze` on pretrained networks and on architectures of well-known packages, with real data. This page is written
by `make gallery`, numbers and all. Each section has a script, `examples/gallery_NAME.py`; the packages that carry data
and weights are in [`examples/sources.py`](../examples/sources.py), with their licences.

How to read the tables: *alignment* is the cosine of what a layer's weights do with what the locally optimal weights
W\\* would do, *shuffled* the same with the labels permuted (what chance shows), *rank 99 %* the modes that hold 99 %
of the gain, *locality* and *agreement* how far gains in loss units may be believed, *read-out gain* what a free linear
read-out of the layer's input could gain. Layers that a skip connection bypasses are read at the mean Jacobian.

Why *shuffled* is not near zero for a bypassed layer: the other road goes on saying what it says of the true labels, and
where labels do not follow it the best that the layer can do is to take that back. So W\\* for shuffled labels is often
the opposite of the weights, and what counts is that the column differs from *alignment*.

The interventions test the report. *Frozen*: the layer puts out its mean for every sample; by the quadratic this costs
the gain that the layer uses. *Step*: its weights go a tenth of the way to W\\* (less where that is far: by a tenth of
their own size); by the quadratic this gains 2t - t² of the gap to W\\*, t the share of the way. With hard labels
trained networks are far outside the local region: under *frozen* it is the order of the layers that counts, and under
*step* a gain that is promised and does not come says that the gap is the quadratic's, not the network's.

What to take from it:

- Early in training, where there is much to gain, the gain that a small step towards W\\* promises and the gain that
  it makes agree in order and mostly in size (residual network, after a few steps). At the end of training such
  promises are broken: the network is at an optimum of its own, and the gap to W\\* is the quadratic's.
- Locality is what to look at first. Where it is 0.75 or more, freezing a layer costs what was predicted or up to about
  three times as much; below that even the sign may be wrong (the values in the first block of the transformer for
  tables).
- The mean Jacobian does not credit a layer with what other roads carry: that the queries of the first block of the
  transformer for tables do next to nothing is found without an experiment, and the experiment agrees. But one action
  for all positions does not see what differs between them: the keys of its second block matter more than was said.
- The gain of a linear read-out ranks the blocks of the sentence encoder nearly as fitted read-outs do on new texts.
- The last layer, which nothing bypasses, has an alignment far above that with shuffled labels in every network.
"""


def assemble() -> None:
    """Write the page from the sections that there are."""
    here = [path for name in NAMES if (path := SECTIONS / f"{name}.md").exists()]
    text = "\n".join([INTRODUCTION, *(path.read_text(encoding="utf-8") for path in here)])
    (HERE.parent / "docs" / "gallery.md").write_text(text, encoding="utf-8")


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, HERE / f"gallery_{name}.py"], check=True)
    assemble()


if __name__ == "__main__":
    main()
