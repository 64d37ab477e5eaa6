//! Without colours, without Unicode, and as a picture.

use super::*;

#[test]
fn without_colours_and_without_unicode_all_is_said() {
    let app = app(synthetic::a3(30), 120, 40);
    let plain = drawn_as(&app, Look { colour: false, unicode: false });
    assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let all = rows(&plain).join("");
    assert!(all.is_ascii() && all.contains("off plan!") && all.contains('#'));
    let colourful = drawn_as(&app, Look::default());
    // The terminal's background is left alone, whatever it is; so are its white and black.
    let used: std::collections::BTreeSet<String> =
        colourful.content.iter().map(|cell| cell.fg.to_string()).collect();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["Cyan", "Green", "Magenta", "Red", "Reset"]);
    assert!(colourful.content.iter().all(|cell| cell.bg == Color::Reset));
    assert!(plain.content.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)));
}

#[test]
fn a_wide_character_has_its_two_cells_in_a_picture() {
    let mut snapshot = synthetic::quiet(&preset::a3(), 3);
    for thread in &mut snapshot.threads {
        thread.comm = "a模型b c".into();
    }
    let picture = svg::picture(&drawn_as(&app(shows(snapshot), 120, 40), Look::default()), "x");
    let document = roxmltree::Document::parse(&picture).unwrap();
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    let mut wide = 0;
    for node in texts {
        let (text, of) =
            (node.text().unwrap(), |name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap());
        let columns = unicode_width::UnicodeWidthStr::width(text);
        assert!((of("textLength") - columns as f64 * 8.4).abs() < 0.01, "{text}: {}", of("textLength"));
        if !text.is_ascii() && text.chars().any(|c| "模型".contains(c)) {
            assert_eq!(text.chars().count(), 1, "{text}");
            wide += 1;
        }
    }
    assert!(wide >= 20, "{wide}");
}

#[test]
fn a_picture_has_every_word_of_the_screen() {
    let mut snapshot = synthetic::quiet(&preset::a3(), 3);
    snapshot.status.agent.host = "<a&\"b>模型".into();
    let app = app(shows(snapshot), 120, 40);
    let buffer = drawn_as(&app, Look::default());
    let picture = svg::picture(&buffer, "x<y");
    let document = roxmltree::Document::parse(&picture).unwrap();
    let texts = document.descendants().filter(|node| node.is_element());
    let words: Vec<&str> = texts.filter_map(|node| node.text()).collect();
    let said = words.concat();
    for word in rows(&buffer).join(" ").split_whitespace() {
        let word = word.trim_matches(['─', '█', '·', '▶']);
        let is_shape = word.chars().all(|c| ('\u{2580}'..='\u{259f}').contains(&c));
        assert!(is_shape || said.contains(word), "{word}");
    }
    let number = |name: &str| document.root_element().attribute(name).unwrap().parse::<f64>().unwrap();
    let (width, height) = (number("width"), number("height"));
    for node in document.descendants().filter(|node| node.has_tag_name("text") || node.has_tag_name("rect")) {
        let of = |name: &str| node.attribute(name).map_or(0.0, |value| value.parse::<f64>().unwrap());
        let right = of("x") + of("textLength") + of("width");
        assert!(of("x") >= 0.0 && right <= width && of("y") + of("height") <= height, "{node:?}");
    }
}
