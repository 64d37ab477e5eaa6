//! Required literals: texts of which at least one is part of whatever a regular expression matches.
//!
//! All are normalized as the filter sees bytes: see [`fold`] and [`normalize`].

use regex_syntax::hir::{
    Hir, HirKind,
    literal::{ExtractKind, Extractor, Seq},
};

/// What stands for a byte that is no UTF-8 once the text is a string; the kernel has the byte itself.
const REPLACEMENT: char = '\u{fffd}';

/// Literals of one pattern before folding: room for a word of a dozen letters in both cases (2^12).
const MAX_LITERALS: usize = 4096;

/// A byte as the filter sees it.
pub fn fold(byte: u8) -> u8 {
    if byte == 0 { b' ' } else { byte.to_ascii_lowercase() }
}

/// The required literals of a pattern; `None` if there are none. An empty list: the pattern cannot match.
pub fn required(pattern: &str) -> Option<Vec<Vec<u8>>> {
    required_by(&regex_syntax::parse(pattern).ok()?)
}

/// Of several sets each of which is required, the one that lets the fewest texts through: the one whose shortest
/// literal is longest, then the smallest.
pub fn best(sets: impl Iterator<Item = Vec<Vec<u8>>>) -> Option<Vec<Vec<u8>>> {
    let shortest = |set: &Vec<Vec<u8>>| set.iter().map(Vec::len).min().unwrap_or(usize::MAX);
    sets.max_by_key(|set| (shortest(set), std::cmp::Reverse(set.len())))
}

fn required_by(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let whole = [extract(hir, ExtractKind::Prefix), extract(hir, ExtractKind::Suffix)];
    let inner = match hir.kind() {
        HirKind::Capture(capture) => vec![required_by(&capture.sub)],
        HirKind::Repetition(repetition) if repetition.min > 0 => vec![required_by(&repetition.sub)],
        // From each place on, so that what follows an unbounded part is seen as one text.
        HirKind::Concat(parts) => (0..parts.len())
            .flat_map(|from| {
                let rest =
                    (from > 0).then(|| extract(&Hir::concat(parts[from..].to_vec()), ExtractKind::Prefix));
                [required_by(&parts[from]), rest.flatten()]
            })
            .collect(),
        HirKind::Alternation(branches) => {
            let all: Option<Vec<_>> = branches.iter().map(required_by).collect();
            vec![all.map(|sets| sets.concat())]
        }
        _ => Vec::new(),
    };
    best(whole.into_iter().chain(inner).flatten())
}

/// The texts that every match starts (or ends) with, if they are few and none is empty.
fn extract(hir: &Hir, kind: ExtractKind) -> Option<Vec<Vec<u8>>> {
    let sequence: Seq = Extractor::new().kind(kind).limit_total(MAX_LITERALS).extract(hir);
    let texts = sequence.literals()?.iter().map(|literal| normalize(literal.as_bytes()));
    let mut literals = texts.collect::<Option<Vec<_>>>()?;
    literals.sort_unstable();
    literals.dedup();
    Some(literals)
}

/// A literal as the filter sees it; `None` if nothing is left of it, or if the kernel may have other bytes there.
fn normalize(literal: &[u8]) -> Option<Vec<u8>> {
    // The extractor cuts long literals between any two bytes: what is left of a cut character may be a piece of U+FFFD.
    let from = literal.iter().position(|byte| !matches!(byte, 0x80..=0xBF))?;
    let text = literal[from..].utf8_chunks().next()?.valid();
    let mut bytes: Vec<u8> = text.bytes().map(fold).collect();
    bytes.dedup_by(|next, byte| *next == b' ' && *byte == b' ');
    (!bytes.is_empty() && !text.contains(REPLACEMENT)).then_some(bytes)
}
