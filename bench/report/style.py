"""The looks of the page, light and dark, and of the plots in it."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --line: #d8dee4; --back: #f6f8fa; --box: #fff;
  --accent: #0b5bd3; --pale: #8db8f2; --peer: #b3bcc6; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4af; --line: #30363d; --back: #0d1117;
  --box: #161b22; --accent: #4c9bff; --pale: #275a9c; --peer: #57606a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 10px; overflow-wrap: anywhere; } h3 { font-size: 1rem; margin: 22px 0 8px; }
p { margin: 4px 0 10px; overflow-wrap: anywhere; } a { color: var(--accent); }
.soft, caption, figcaption small { color: var(--soft); font-size: .88rem; } .warn { font-weight: 600; }
section { background: var(--box); border: 1px solid var(--line); border-radius: 10px; padding: 16px; margin: 16px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.card { background: var(--box); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; min-width: 0; }
.card b { display: block; font-size: 1.4rem; line-height: 1.2; overflow-wrap: anywhere; }
.card span { color: var(--soft); font-size: .85rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 12px; }
figure { margin: 0; min-width: 0; } .plots figure { border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
figcaption { font-size: .92rem; font-weight: 600; overflow-wrap: anywhere; line-height: 1.35; }
figcaption small { display: block; font-weight: 400; }
figure > small { display: block; margin: 8px 0 0; color: var(--soft); }
ul.failed { margin: 8px 0 0; padding-left: 18px; font-size: .85rem; overflow-wrap: anywhere; }
.failed b { color: var(--bad); }
.wide { overflow-x: auto; } .wide:focus-visible, th button:focus-visible { outline: 2px solid var(--accent); }
.tall { max-height: 80vh; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  white-space: nowrap; }
td.n, th.n { text-align: right; } tr:last-child td { border-bottom: 0; } tr.ours td { background: var(--back); }
td.long { white-space: normal; min-width: 420px; overflow-wrap: anywhere; font-size: .85rem; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
.tall th { position: sticky; top: 0; background: var(--box); }
th button { all: unset; cursor: pointer; } th button::after { content: " \\2195"; opacity: .4; }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
.filter { display: flex; flex-wrap: wrap; gap: 6px 12px; align-items: baseline; margin: 0 0 10px; }
.filter[hidden] { display: none; } .filter input { font: inherit; padding: 4px 8px; width: min(100%, 320px);
  color: inherit; background: var(--back); border: 1px solid var(--line); border-radius: 6px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--ink); font-family: system-ui, sans-serif; }
svg .note { fill: var(--soft); } svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .roof { stroke: var(--ink); fill: none; stroke-width: 2; } svg .ours { fill: var(--accent); stroke: var(--accent); }
svg .again { fill: var(--pale); stroke: var(--pale); } svg .peer { fill: var(--peer); stroke: var(--peer); }
svg text.ours { stroke: none; font-weight: 600; } svg .whisker { stroke: var(--ink); stroke-width: 1.3; }
svg .line { fill: none; stroke-width: 2; } svg .hollow { fill: var(--box); stroke-width: 2; }
svg.bars { max-width: 420px; } svg.roofline { max-width: 900px; } svg.roofline text { font-size: 12px; }
@media (max-width: 600px) { section { padding: 12px; } main { padding: 12px 10px 40px; }
  svg.roofline text { font-size: 21px; } }
"""
