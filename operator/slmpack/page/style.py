"""The page's stylesheet: one, inline, allowed by its hash. Colours are pairs, for light and for dark."""

from __future__ import annotations

__all__ = ["COLOURS", "STYLE"]

_HUES = (
    ("#0b6bcb", "#5fb0ff"),
    ("#0f7b4f", "#4cc38a"),
    ("#8a3ffc", "#b794f6"),
    ("#a15c00", "#f0a83c"),
    ("#b3246b", "#f27eb2"),
    ("#00737a", "#3cc4cc"),
    ("#5b5bd6", "#9a9af5"),
    ("#6b6f00", "#c3c94a"),
)
COLOURS = len(_HUES)
"""After so many SLMDeployments the colours begin anew."""

_LIGHT = {
    "bg": "#f6f7f8",
    "panel": "#ffffff",
    "text": "#15191e",
    "muted": "#545d68",
    "line": "#dfe3e8",
    "track": "#eceff2",
    "bad": "#b42318",
    "bad-soft": "#fdeceb",
    "warn": "#8a5300",
    "good": "#14713d",
    "hatch": "#c3c9d1",
}
_DARK = {
    "bg": "#0e1116",
    "panel": "#161b22",
    "text": "#e6eaef",
    "muted": "#9aa5b1",
    "line": "#2a313a",
    "track": "#222932",
    "bad": "#ff8a80",
    "bad-soft": "#3a1c1c",
    "warn": "#f0b45a",
    "good": "#5ac98b",
    "hatch": "#48525e",
}


def _variables(colours: dict[str, str], hues: int) -> str:
    pairs = [*colours.items(), *((f"c{number}", pair[hues]) for number, pair in enumerate(_HUES))]
    return ";".join(f"--{name}:{value}" for name, value in pairs)


_RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--text);font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.page{max-width:1560px;margin:0 auto;padding:20px 24px 48px}
h1,h2,h3,h4,p,ul,ol,dl,dd,figure,table{margin:0;padding:0}
h1{font-size:22px;line-height:1.25;font-weight:650;letter-spacing:-.01em}
h2{font-size:16px;font-weight:650;margin:32px 0 10px}
h3{font-size:14px;font-weight:650;display:inline}
h4{font-size:12px;font-weight:650;margin:0 0 6px;color:var(--muted)}
ul,ol{list-style:none}
a{color:inherit;text-underline-offset:2px}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
.mono,code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:12px}
.muted{color:var(--muted)}
.vh{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.skip{position:absolute;left:-999px}.skip:focus{position:static}
.top{display:flex;flex-wrap:wrap;gap:4px 24px;align-items:baseline;justify-content:space-between}
.top p{color:var(--muted)}
.banner{margin:12px 0 0;padding:8px 12px;border:1px solid var(--line);border-left:4px solid var(--c0);
background:var(--panel);border-radius:4px}
.banner.bad{border-left-color:var(--bad)}
.jump{margin:10px 0 0;display:flex;flex-wrap:wrap;gap:4px 18px}
.totals{display:flex;flex-wrap:wrap;margin:16px 0 0;background:var(--panel);border:1px solid var(--line);
border-radius:6px;overflow:hidden}
.totals div{flex:1 1 150px;padding:10px 14px;box-shadow:0 0 0 1px var(--line)}
.totals dt{color:var(--muted);font-size:12px}
.totals dd{font-size:19px;font-weight:600;line-height:1.3}
.totals dd small{display:block;font-size:12px;font-weight:400;color:var(--muted)}
.totals dd small.bad{color:var(--bad)}
.panel{background:var(--panel);border:1px solid var(--line);border-radius:6px}
.troubles li{padding:9px 14px;border-left:4px solid var(--bad)}
.troubles li+li{border-top:1px solid var(--line)}
.troubles b{color:var(--bad)}
.legend{display:flex;flex-wrap:wrap;gap:6px 16px;margin:0 0 12px;color:var(--muted);font-size:12px}
.legend li{display:flex;align-items:center;gap:6px}
.legend .block,.legend .free,.legend .withheld{width:22px;height:14px;min-height:0;padding:0;flex:none}
.legend i{width:14px;height:6px;display:block}
.legend.colours{margin-top:-4px}
.legend .swatch{width:10px;height:10px}
.nodes{columns:2 560px;column-gap:12px}
.node{padding:12px 14px 12px;margin:0 0 12px;break-inside:avoid}
.node header,.node summary{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:baseline}
.node .sums{flex-basis:100%;color:var(--muted);font-size:12px}
.node .note{color:var(--warn);font-size:12px;margin-top:8px}
.node .note.calm{color:var(--muted)}
.chip{font-size:11px;line-height:1.5;border:1px solid currentColor;border-radius:9px;padding:0 7px;white-space:nowrap}
.chip.bad{color:var(--bad)}.chip.good{color:var(--good)}.chip.warn{color:var(--warn)}
.bars{margin-top:10px;display:flex;flex-wrap:wrap;gap:10px 0;align-items:flex-end}
.bars>li{flex:0 0 100%;min-width:0}
.bars>.slice{flex:none;padding-right:3px}
.bars>.slice .bar{width:100%}
.slice .head{font-size:11px;line-height:1.25}
.slice .block{padding:3px 2px 8px 5px}
.bars .head{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 12px;font-size:12px;color:var(--muted)}
.gpu .head>span:last-child{display:flex;flex-wrap:wrap;gap:0 8px;align-items:center}
.mini{display:block;flex-basis:100%;height:8px;margin-top:4px}
.mini rect{fill:var(--k)}
.mini .rail{fill:var(--track)}
.mini .failing{fill:var(--bad)}
.gauge{display:block;width:72px;height:8px;flex:none}
.gauge .rail{fill:var(--line)}.gauge .band{fill:var(--hatch)}.gauge .now{fill:var(--text)}.gauge .top{fill:var(--bad)}
.bars .head b{color:var(--text);font-weight:600}
.bar{display:flex;height:38px;background:var(--track);border-radius:3px;overflow:hidden;margin-top:3px;min-width:6px}
.bar>*{flex:none;min-width:0;height:100%}
body{--k:var(--hatch)}
.block{position:relative;overflow:hidden;container-type:inline-size;padding:3px 5px 8px 8px;font-size:11.5px;
line-height:1.25;
background:color-mix(in srgb,var(--k) 20%,var(--panel));box-shadow:inset 3px 0 0 var(--k),inset -1px 0 0 var(--panel)}
.block .name{display:flex;font-weight:600;white-space:nowrap}
.block .name span{flex:0 1 auto;min-width:0;overflow:hidden;text-overflow:ellipsis}
.block .name span+span{flex:none}
.block .state{display:block;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;color:var(--text);font-size:10px}
@container (max-width:54px){.block .state{display:none}
.block .name:has(span+span) span:first-child{max-width:0;text-overflow:clip}}
.starting{background:repeating-linear-gradient(135deg,color-mix(in srgb,var(--k) 26%,var(--panel)) 0 5px,
color-mix(in srgb,var(--k) 10%,var(--panel)) 5px 10px)}
.planned,.waiting,.idle{background:var(--panel);box-shadow:none;border:1px dashed var(--k);
border-left:3px solid var(--k)}
.waiting{border-style:dotted;border-left-style:dotted}
.idle{border:1px dashed var(--hatch)}
.ending,.foreign{background:repeating-linear-gradient(45deg,var(--track) 0 4px,var(--panel) 4px 8px)}
.ending .name{text-decoration:line-through}
.failing{background:var(--bad-soft);box-shadow:inset 3px 0 0 var(--bad),inset 0 0 0 1px var(--bad)}
.failing .state{color:var(--bad);font-weight:600}
.strip{position:absolute;left:3px;right:1px;bottom:0;height:5px;display:flex}
.strip>i{flex:none;height:100%}
.weights{background:var(--k)}
.other{background:color-mix(in srgb,var(--k) 68%,var(--panel))}
.kv{background:color-mix(in srgb,var(--k) 42%,var(--panel))}
.spare{background:color-mix(in srgb,var(--k) 42%,var(--panel));opacity:.45}
.legend .strip-key{--k:var(--muted)}
.free{background:transparent}
.withheld{background:repeating-linear-gradient(45deg,var(--hatch) 0 1px,transparent 1px 5px)}
.legend .free{background:var(--track)}
.deployment{padding:0}
.deployment+.deployment{margin-top:10px}
.deployment>summary{padding:11px 14px;cursor:pointer;display:flex;flex-wrap:wrap;gap:2px 12px;align-items:baseline}
.deployment>summary .why{color:var(--muted);flex:1 1 320px;min-width:0}
.deployment>summary::before,.node>summary::before{content:"";width:0;height:0;flex:none;align-self:center;
border:4px solid transparent;border-left:6px solid var(--muted);border-right:0;margin-right:-2px}
.deployment[open]>summary::before,.node[open]>summary::before{transform:rotate(90deg)}
summary{cursor:pointer}
.swatch{width:10px;height:10px;border-radius:2px;background:var(--k);flex:none;align-self:center}
.body{border-top:1px solid var(--line);padding:14px;display:grid;gap:20px 28px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));align-items:start}
.body>div{min-width:0;display:grid;gap:20px}
.body section{min-width:0}
figcaption{font-size:12px;margin-top:4px}
.block-line{height:12px;display:flex;border-radius:2px;overflow:hidden;margin:6px 0 8px}
.block-line>i{flex:none}
table{border-collapse:collapse;width:100%;font-size:12.5px}
caption{text-align:left;color:var(--muted);font-size:12px;padding-bottom:4px}
th{font-weight:400;text-align:left;vertical-align:top;padding:2px 12px 2px 0}
thead th{white-space:nowrap;color:var(--muted);font-size:11.5px;border-bottom:1px solid var(--line)}
td{vertical-align:top;padding:2px 12px 2px 0}
.facts th{white-space:nowrap}
.facts td.note{width:100%}
td.n{text-align:right;white-space:nowrap}
td.note,th.note{color:var(--muted)}
tr.sum>*{font-weight:600;border-top:1px solid var(--line)}
.scroll{overflow-x:auto}
.reasons{margin-top:8px;display:grid;gap:4px;font-size:12.5px}
.reasons li{padding-left:12px;border-left:2px solid var(--line)}
.reasons li.no{border-left-color:var(--warn)}
.reasons li.no b{color:var(--warn)}
.warning{color:var(--warn)}
.lead{margin-bottom:4px}
.body{font-size:12.5px}
.notes{margin-top:6px;font-size:12px}
details details{margin-top:8px}
details details>summary{cursor:pointer;color:var(--muted);font-size:12px}
figure.curve{max-width:620px;margin-top:10px;container-type:inline-size}
figure.curve svg{display:block;width:100%;height:auto}
.curve text{font:11px system-ui,sans-serif;fill:var(--muted)}
.curve .axis{stroke:var(--line);stroke-width:1}
.curve .band{fill:var(--k);opacity:.16}
.curve .line{fill:none;stroke:var(--k);stroke-width:2;stroke-linejoin:round}
.curve .knee{stroke:var(--text);stroke-width:1.2;stroke-dasharray:4 3}
.curve .dot{fill:var(--panel);stroke:var(--text);stroke-width:1.8}
.curve .limit{stroke:var(--warn);stroke-width:1.2;stroke-dasharray:2 3}
.curve text.strong{fill:var(--text);font-weight:600}
.curve text.limit-text{fill:var(--warn);stroke:none}
@container (max-width:460px){.curve text{font-size:16px}}
footer{margin-top:36px;padding-top:12px;border-top:1px solid var(--line);color:var(--muted);font-size:12px}
footer p+p{margin-top:4px}
@media (max-width:640px){.facts th,.facts td.n{white-space:normal;overflow-wrap:normal}.facts td.note{width:auto}
.page{padding:14px 12px 36px}.node{padding:10px}.body{padding:12px 10px}}
@media print{body{background:#fff}.jump,.skip{display:none}.panel{break-inside:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}details::details-content{content-visibility:visible;
block-size:auto}}
@media (forced-colors:active){.block,.bar,.free,.withheld{border:1px solid CanvasText;forced-color-adjust:auto}}
"""

STYLE = (
    f":root{{{_variables(_LIGHT, 0)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(_DARK, 1)}}}}}"
    + "".join(f".k{number}{{--k:var(--c{number})}}" for number in range(COLOURS))
    + "".join(line.strip() for line in _RULES.splitlines())
)
