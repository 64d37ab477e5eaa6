//! The page's looks: light and dark by the reader's setting, the same on paper. Roles differ by colour and by dashes, nodes
//! by colour and by the number on them.

/// How many colours of nodes there are before they repeat.
pub(super) const NODE_COLOURS: u32 = 8;

/// The style sheet.
pub(super) const SHEET: &str = "\
:root{color-scheme:light dark;--ink:#1f2328;--dim:#59636e;--paper:#fff;--card:#fff;--line:#d1d9e0;--grid:#e4e8ec;--head:#f6f8fa;\
--bad:#b3261e;--badpaper:#fff1ef;--good:#1a7f37;--heat:#d4570a;--bar:#8fb8e8;\
--r0:#0b5fc0;--r1:#b4500b;--r2:#6a737d;\
--n0:#b6d9fb;--n1:#ffd39b;--n2:#b4e5b9;--n3:#e5c6f5;--n4:#fbc2c4;--n5:#e6dfa0;--n6:#b2e6e4;--n7:#d3d6ea}\
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9aa4af;--paper:#0d1117;--card:#11161d;--line:#3d444d;--grid:#242b33;--head:#151b23;\
--bad:#ff8a80;--badpaper:#2b1513;--good:#56d364;--heat:#f0883e;--bar:#2d5f9a;\
--r0:#6cb2ff;--r1:#ffa657;--r2:#a9b4bf;\
--n0:#174f86;--n1:#7d4a0b;--n2:#1d622c;--n3:#63348a;--n4:#86272e;--n5:#5e560f;--n6:#125f60;--n7:#474d75}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:1280px;padding:24px;background:var(--paper);color:var(--ink);font:14px/1.5 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}\
h1{font-size:24px;line-height:1.3;margin:0 0 4px}h2{font-size:18px;margin:36px 0 8px;padding-top:4px}h3{font-size:14px;margin:0 0 6px}\
p{margin:4px 0;overflow-wrap:anywhere}.dim{color:var(--dim)}.facts span{display:inline-block;max-width:100%}.verdict{font-size:16px;margin:14px 0 0}\
.alarm{border:1px solid var(--bad);border-left-width:6px;border-radius:8px;background:var(--badpaper);padding:8px 14px;margin:14px 0}\
.alarm b{color:var(--bad)}.alarm ul{margin:2px 0;padding-left:20px}.alarm li{overflow-wrap:anywhere}.good{color:var(--good)}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px;margin:16px 0}\
.tile{border:1px solid var(--line);border-radius:8px;background:var(--card);padding:10px 14px}.tile b{display:block;font-size:24px;line-height:1.3;font-variant-numeric:tabular-nums}\
.tile span{display:block}.tile .dim{font-size:12px}\
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:16px;margin:8px 0 16px}.pair table{font-size:12px}.pair th,.pair td{padding:4px 5px}\
.card{border:1px solid var(--line);border-radius:8px;background:var(--card);padding:12px 14px;margin:0;min-width:0}\
.card.whole{margin:8px 0 16px}.card svg{display:block;width:100%;height:auto}\
.key{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:12px;color:var(--dim);margin:0 0 4px}.key span{display:inline-flex;align-items:center;gap:6px}\
.card .key svg{width:28px;height:10px;flex:none}\
svg text{fill:var(--dim);font-size:11px;font-variant-numeric:tabular-nums}svg .grid{stroke:var(--grid);stroke-width:1}svg .frame{stroke:var(--line);stroke-width:1;fill:none}\
.line{fill:none;stroke-width:2;stroke-linejoin:round}.r0{stroke:var(--r0)}.r1{stroke:var(--r1);stroke-dasharray:7 3}.r2{stroke:var(--r2);stroke-dasharray:2 3}\
.dot.r0{fill:var(--r0)}.dot.r1{fill:var(--r1)}.dot.r2{fill:var(--r2)}.dot{stroke:none}\
svg.heat .cell{stroke:var(--line);stroke-width:1;fill:var(--card)}svg.heat .warm{fill:var(--heat)}svg.heat .home{fill:var(--head)}\
svg.heat .figure{fill:var(--ink);text-anchor:middle;font-size:12px}svg.heat .zero{fill:var(--dim)}svg.heat .mid{text-anchor:middle}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px}th,td{border-bottom:1px solid var(--line);padding:4px 8px;text-align:left;white-space:nowrap}\
th{color:var(--dim);font-weight:600;font-size:12px}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
tbody tr:last-child td{border-bottom:0}.threads table{font-size:11.5px}.threads th,.threads td{padding:3px 4px}.threads th{font-size:11px}\
.bars{display:grid;grid-template-columns:max-content minmax(60px,1fr) max-content;gap:4px 12px;align-items:center;font-size:13px}\
.bars+.bars{margin-top:14px;padding-top:14px;border-top:1px solid var(--line)}.bars .name{max-width:260px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}.bars .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
.bars i{display:block;height:12px;min-width:2px;border-radius:2px;background:var(--bar)}\
.stacks{display:grid;grid-template-columns:max-content minmax(120px,1fr) max-content;gap:3px 12px;align-items:center;font-size:12px}\
.stacks .name{white-space:nowrap;max-width:260px;overflow:hidden;text-overflow:ellipsis}.stacks .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
.stack{display:flex;height:20px;gap:1px;min-width:0}.stack span{flex-basis:0;min-width:3px;overflow:hidden;text-align:center;line-height:20px;font-size:11px;white-space:nowrap}\
.swatch{display:inline-block;width:14px;height:12px;border-radius:2px}\
.n0{background-color:var(--n0)}.n1{background-color:var(--n1)}.n2{background-color:var(--n2)}.n3{background-color:var(--n3)}\
.n4{background-color:var(--n4)}.n5{background-color:var(--n5)}.n6{background-color:var(--n6)}.n7{background-color:var(--n7)}\
.off{background-image:repeating-linear-gradient(45deg,transparent 0 4px,color-mix(in srgb,var(--ink) 45%,transparent) 4px 6px)}\
@media print{:root{color-scheme:light}body{max-width:none;padding:0;font-size:11px}.card,.tile,tr{break-inside:avoid}h2{break-after:avoid}\
.wide{overflow:visible}.threads table{font-size:7px}.threads th,.threads td{padding:1px 3px}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}";
