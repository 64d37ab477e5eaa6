//! The picture's colours, for light and dark surroundings. Plain rules instead of CSS variables: not every viewer of SVG
//! files knows those.

/// How many group colours there are before they repeat; marks in the cells tell repeats apart.
pub(super) const COLOURS: u32 = 8;

/// Selector, property, light, dark.
const RULES: [(&str, &str, &str, &str); 24] = [
    ("text", "fill", "#1f2328", "#e6edf3"),
    (".dim", "fill", "#59636e", "#9aa4af"),
    (".paper", "fill", "#ffffff", "#0d1117"),
    (".socket", "fill", "#f6f8fa", "#151b23"),
    (".socket", "stroke", "#818b98", "#656c76"),
    (".node", "fill", "#ffffff", "#0d1117"),
    (".node", "stroke", "#c8cfd7", "#3d444d"),
    (".unit", "stroke", "#6e7781", "#8b949e"),
    (".unit", "fill", "none", "none"),
    (".g0", "fill", "#b6d9fb", "#174f86"),
    (".g1", "fill", "#ffd39b", "#7d4a0b"),
    (".g2", "fill", "#b4e5b9", "#1d622c"),
    (".g3", "fill", "#e5c6f5", "#63348a"),
    (".g4", "fill", "#fbc2c4", "#86272e"),
    (".g5", "fill", "#e6dfa0", "#5e560f"),
    (".g6", "fill", "#b2e6e4", "#125f60"),
    (".g7", "fill", "#d3d6ea", "#474d75"),
    (".many", "fill", "#dfe4ea", "#39424e"),
    (".forward", "fill", "#eceff3", "#202833"),
    (".none", "fill", "#ffffff", "#0d1117"),
    (".cell", "stroke", "#8c959f", "#57606a"),
    (".hatch", "stroke", "#57606a", "#b1bac4"),
    (".dot", "fill", "#1f2328", "#e6edf3"),
    (".dot", "stroke", "#ffffff", "#0d1117"),
];

const FIXED: &str = ".na-plan{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;font-size:12px}\
.na-plan .title{font-size:16px;font-weight:600}.na-plan .head{font-size:14px;font-weight:600}\
.na-plan .strong{font-weight:600}.na-plan .cpu text{font-size:11px;text-anchor:middle;font-variant-numeric:tabular-nums}\
.na-plan .cpu .mark{font-size:9px}.na-plan .hatch{stroke-width:2;opacity:.4}.na-plan .dot{stroke-width:1}\
.na-plan .unit{stroke-width:1.5}";

/// The style sheet; every rule is confined to the picture, so that a page around it is left alone.
pub(super) fn sheet() -> String {
    let rules = |dark: bool| -> String {
        let rule = |(selector, property, light, night): &(&str, &str, &str, &str)| {
            format!(".na-plan {selector}{{{property}:{}}}", if dark { night } else { light })
        };
        RULES.iter().map(rule).collect()
    };
    format!("<style>{FIXED}{}@media(prefers-color-scheme:dark){{{}}}</style>", rules(false), rules(true))
}
