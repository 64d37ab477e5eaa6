//! Text from other processes made safe to print: in a terminal, in Markdown, in XML and HTML, in JSON.
//!
//! A process chooses its own comm, command line and cgroup, and so what an operator's terminal or browser is fed.
//! Everything that is not plainly visible becomes a visible escape such as `\u{1b}`; then each format's own marks are
//! taken care of.

use std::fmt::Write as _;

/// Letters by Unicode's book that show as nothing.
const BLANK_LETTERS: [char; 5] = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];

/// Whether a character does not show as itself: controls, line breaks, direction overrides, zero-width and unassigned
/// characters, blanks other than the space, marks that stack on the character before.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    let shown_as_is = || matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1;
    BLANK_LETTERS.contains(&c) || !shown_as_is()
}

/// For a terminal or a log: one line, nothing hidden.
#[must_use]
pub fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '\n' | '\r' | '\t' => out.extend(c.escape_debug()),
            c if is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// For Markdown, in running text or a table cell: shows as the same text, makes no markup, link or HTML.
#[must_use]
pub fn markdown(raw: &str) -> String {
    let raw = text(raw);
    let mut out = String::with_capacity(raw.len());
    let chars: Vec<char> = raw.chars().collect();
    for (index, &c) in chars.iter().enumerate() {
        let near = |offset: isize| index.checked_add_signed(offset).and_then(|at| chars.get(at)).copied();
        let in_word = || [near(-1), near(1)].iter().all(|c| c.is_some_and(char::is_alphanumeric));
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // GitHub mentions people and makes bare addresses into links.
            '@' => out.push_str("&#64;"),
            ':' if near(1) == Some('/') => out.push_str("\\:"),
            '_' if in_word() => out.push('_'),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// For XML and HTML, in text or a quoted attribute.
#[must_use]
pub fn xml(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in text(raw).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// For a finished JSON document: the same values, with what a terminal could take for a command written as `\uXXXX`.
/// (serde_json escapes controls up to U+001F only; what else is hidden can stand nowhere but in a string.)
#[must_use]
pub fn json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        if is_hidden(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// At most `max` characters, the last one an ellipsis where some are left out. Cut before escaping for a format.
#[must_use]
pub fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_stay_as_they_are() {
        for name in ["VLLM::EngineCore", "rpc_proxy", "python3 -m vllm --x='1'", "模型服务", "C:\\x"] {
            assert_eq!(text(name), name);
        }
        assert_eq!(markdown("rpc_proxy a.b"), "rpc_proxy a.b");
    }

    #[test]
    fn what_does_not_show_is_made_to() {
        assert_eq!(text("a\u{1b}[2Jb\nc\td"), "a\\u{1b}[2Jb\\nc\\td");
        let hidden = "\u{7f}\u{9b}\u{ad}\u{61c}\u{200b}\u{200f}\u{2028}\u{202e}\u{2066}\u{2069}\u{3000}\u{feff}\u{fe0f}\u{e0041}\u{3164}";
        assert!(hidden.chars().all(is_hidden));
        assert!(text(hidden).is_ascii());
    }

    #[test]
    fn markup_is_taken_literally() {
        assert_eq!(markdown("a|b`c`<i>*_x_*"), "a\\|b\\`c\\`&lt;i&gt;\\*\\_x\\_\\*");
        assert_eq!(markdown("https://x.y @z ![i](u)"), "https\\://x.y &#64;z \\!\\[i\\](u)");
        assert_eq!(xml("<a b=\"c\" d='e'>&"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
    }

    #[test]
    fn long_names_are_cut_by_characters() {
        assert_eq!(shortened("模型服务", 4), "模型服务");
        assert_eq!(shortened("模型服务", 3), "模型…");
    }

    fn hostile() -> impl Strategy<Value = String> {
        let c = prop_oneof![
            any::<char>(),
            prop::sample::select(vec![
                '\u{1b}', '\u{9b}', '\n', '\u{202e}', '\u{200b}', '<', '|', '`', '&', '"', ']'
            ]),
        ];
        prop::collection::vec(c, 0..40).prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn nothing_hidden_survives(raw in hostile()) {
            for safe in [text(&raw), markdown(&raw), xml(&raw)] {
                prop_assert!(!safe.chars().any(|c| is_hidden(c) || c.is_control()), "{safe:?}");
            }
        }

        #[test]
        fn no_markup_survives(raw in hostile()) {
            let (md, xml) = (markdown(&raw), xml(&raw));
            prop_assert!(!md.contains(['<', '>']) && !xml.contains(['<', '>', '"', '\'']));
            let bare = |index: usize| md[..index].chars().rev().take_while(|c| *c == '\\').count() % 2 == 0;
            prop_assert!(!md.match_indices(['|', '`', '*', '[', ']']).any(|(index, _)| bare(index)), "{md:?}");
            let read = roxmltree::Document::parse(&format!("<x y=\"{xml}\"/>")).map(|_| ());
            prop_assert!(read.is_ok(), "{read:?}");
        }

        #[test]
        fn json_keeps_its_value(raw in hostile()) {
            let safe = json(&serde_json::to_string_pretty(&serde_json::json!([&raw])).unwrap());
            prop_assert!(!safe.chars().any(|c| is_hidden(c) && c != '\n'));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&safe).unwrap(), vec![raw]);
        }
    }
}
