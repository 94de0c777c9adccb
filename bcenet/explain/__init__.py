"""Why the last layer's gradient is a - y: the proof on a network's own numbers.

`bcenet.explain_last_layer` makes the report. The numbers: `paths` computes dC/dz three ways,
`exact` in decimal arithmetic, `hidden` and `pairings` ask the same of other layers and costs,
`report` puts them together. Their rendering: `story` tells them, and `text`, `page` and `plot`
write it.
"""

from bcenet.explain.report import Explanation, explain_last_layer

__all__ = ["Explanation", "explain_last_layer"]
