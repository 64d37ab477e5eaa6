//! Each fact broken by itself: exactly that item fails, with that fix.

mod agent;
mod placement;
mod preconditions;
mod runs;

use super::*;

/// The items that are not as they are in `good`: id, verdict and what mends them.
fn changed(good: &[Item], now: &[Item]) -> Vec<(&'static str, Verdict, String)> {
    assert_eq!(ids(good), ids(now), "the same items, whatever comes of them");
    let differ = now.iter().zip(good).filter(|(now, good)| now.verdict != good.verdict);
    differ.map(|(now, _)| (now.id, now.verdict, now.fixes.join("\n"))).collect()
}

fn ids(items: &[Item]) -> Vec<&'static str> {
    items.iter().map(|item| item.id).collect()
}

fn item<'a>(items: &'a [Item], id: &str) -> &'a Item {
    items.iter().find(|item| item.id == id).expect("the item")
}

fn verdicts(of: &[(&'static str, Verdict)]) -> Vec<Item> {
    of.iter().map(|(id, verdict)| Point(id, "asked").item(*verdict, Vec::new(), Vec::new())).collect()
}

#[test]
fn a_section_passes_if_something_is_known_and_nothing_fails() {
    use Verdict::{Fail, Pass, Skipped, Warn};
    let passes = |of: &[(&'static str, Verdict)], strict| Tally::of(&verdicts(of), Section::B).passes(strict);
    assert!(passes(&[("B1", Pass), ("A1", Fail)], true), "only its own items count");
    assert!(passes(&[("B1", Pass), ("B2", Warn), ("B3", Skipped)], false));
    assert!(!passes(&[("B1", Pass), ("B2", Warn)], true));
    assert!(!passes(&[("B1", Pass), ("B2", Skipped)], true));
    assert!(!passes(&[("B1", Pass), ("B2", Fail)], false));
    assert!(!passes(&[("B1", Skipped)], false), "nothing looked at is nothing proven");
    assert!(!passes(&[], false));
    let items = verdicts(&[("B1", Pass), ("B2", Fail), ("B3", Pass)]);
    assert_eq!(Tally::of(&items, Section::B).to_string(), "1 fail, 2 pass");
}

#[test]
fn an_item_is_as_bad_as_the_worst_and_says_each_fix_once() {
    let finding = |found: &str| Finding { name: "x", found: found.into(), fix: "the same".into() };
    let many: Vec<_> = (0..100).map(|number| (Verdict::Warn, finding(&number.to_string()))).collect();
    let item =
        Point("A1", "asked").judge(String::new, [many, vec![(Verdict::Fail, finding("last"))]].concat());
    assert_eq!(item.verdict, Verdict::Fail);
    assert_eq!((item.found.len(), item.found[MOST_LINES].as_str()), (MOST_LINES + 1, "and 61 more"));
    assert_eq!(item.fixes, ["the same"]);
}
