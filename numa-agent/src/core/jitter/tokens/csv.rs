//! Comma-separated values (RFC 4180): rows of fields, each with the line it begins in.

use std::borrow::Cow;

use super::Problem;
use crate::core::jitter::file::At;

/// The rows of a text; lines without anything in them are none.
pub struct Rows<'a> {
    rest: &'a str,
    line: usize,
}

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// From 1.
    pub line: usize,
    /// Without their quotes.
    pub fields: Vec<Cow<'a, str>>,
}

impl<'a> Rows<'a> {
    /// Of this text.
    pub fn new(text: &'a str) -> Self {
        Self { rest: text, line: 1 }
    }

    /// The field that begins here, and whether it is the last of its row.
    fn field(&mut self) -> Result<(Cow<'a, str>, bool), Problem> {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
            let field = self.rest[..end].trim_end_matches('\r');
            return Ok((field.into(), self.separator(end)));
        };
        let (begun, mut field, mut rest) = (self.line, Cow::Borrowed(""), quoted);
        loop {
            let Some(quote) = rest.find('"') else {
                let problem = "a quoted field begins here, and nowhere ends".to_owned();
                return Err((At::Line(begun), problem, "if the file was cut short, copy it again".into()));
            };
            self.line += rest[..quote].matches('\n').count();
            field += &rest[..quote];
            rest = &rest[quote + 1..];
            match rest.strip_prefix('"') {
                // Two are one that is meant.
                Some(after) => (field, rest) = (field + "\"", after),
                None => break,
            }
        }
        self.rest = rest;
        let end = rest.find([',', '\n']).unwrap_or(rest.len());
        if !rest[..end].trim().is_empty() {
            let problem = format!("{:?} after the quote that ends a field", rest[..end].trim());
            return Err((At::Line(self.line), problem, "write a quote in a quoted field twice".into()));
        }
        Ok((field, self.separator(end)))
    }

    /// Steps over what ends the field at `end`; whether it ends the row too.
    fn separator(&mut self, end: usize) -> bool {
        let last = !self.rest[end..].starts_with(',');
        self.line += usize::from(self.rest[end..].starts_with('\n'));
        self.rest = self.rest.get(end + 1..).unwrap_or("");
        last
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = Result<Row<'a>, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(end) = self.rest.find('\n').filter(|end| self.rest[..*end].trim().is_empty()) {
            self.separator(end);
        }
        if self.rest.trim().is_empty() {
            return None;
        }
        let (line, mut fields) = (self.line, Vec::new());
        loop {
            match self.field() {
                Ok((field, last)) => {
                    fields.push(field);
                    if last {
                        return Some(Ok(Row { line, fields }));
                    }
                }
                Err(problem) => {
                    self.rest = "";
                    return Some(Err(problem));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(text: &str) -> Vec<(usize, Vec<String>)> {
        Rows::new(text)
            .map(|row| row.unwrap_or_else(|problem| panic!("{problem:?}")))
            .map(|row| (row.line, row.fields.into_iter().map(Cow::into_owned).collect()))
            .collect()
    }

    #[test]
    fn rows_know_their_lines() {
        let text = "a,b\r\n\n\"x, \"\"y\"\"\nz\",1\n,\n\"\",\"q\" \r\nlast,";
        let owned = |fields: [&str; 2]| fields.map(str::to_owned).to_vec();
        let expected = [
            (1, owned(["a", "b"])),
            (3, owned(["x, \"y\"\nz", "1"])),
            (5, owned(["", ""])),
            (6, owned(["", "q"])),
            (7, owned(["last", ""])),
        ];
        assert_eq!(rows(text), expected);
        assert_eq!(rows(" \n\n"), []);
    }

    #[test]
    fn broken_quotes_are_refused_where_they_are() {
        let problem = |text| {
            let (at, problem, _) = Rows::new(text).find_map(Result::err).expect(text);
            format!("{at}: {problem}")
        };
        assert_eq!(problem("a\n\"b\nc"), ":2: a quoted field begins here, and nowhere ends");
        assert_eq!(problem("a\n\"b\nc\"d,e"), ":3: \"d\" after the quote that ends a field");
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(fields in proptest::collection::vec("[a\",\n\r ]{0,6}", 2..4)) {
            let quoted: Vec<String> = fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            prop_assert_eq!(rows(&format!("{}\nnext", quoted.join(",")))[0].1.clone(), fields);
        }

        #[test]
        fn no_text_is_too_strange(text in "[a\",\n\r é]{0,20}") {
            prop_assert!(Rows::new(&text).count() <= text.len() + 1);
        }
    }
}
