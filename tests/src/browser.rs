//! A headless browser, to look at pages as their readers' browsers do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;

/// Chromium, by the names that distributions give it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// A page takes a second; a browser that hangs must not hang the tests.
const PATIENCE_SECONDS: &str = "120";

/// A browser to start.
#[derive(Debug, Clone)]
pub struct Browser {
    program: PathBuf,
}

/// What a page looks like.
#[derive(Debug, Deserialize)]
pub struct Looks {
    /// The page's title.
    pub title: String,
    /// All text that shows.
    pub text: String,
    /// The window's width, and the page's: more means a horizontal scroll bar.
    pub window: u32,
    /// See there.
    pub page: u32,
    /// First cells of tables that are wider than their place.
    pub cut: Vec<String>,
    /// Labels in pictures that overlap, or stick out.
    pub overlaps: Vec<String>,
    /// The background's colour.
    pub background: String,
}

/// Added to a copy of the page, to measure it. The page itself has no script, and forbids all.
const MEASURE: &str = r#"<script>
const close = document.querySelectorAll('svg');
const overlaps = [];
for (const svg of close) {
  const frame = svg.getBoundingClientRect();
  const labels = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  labels.forEach(([text, a], index) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
      overlaps.push(text + ' sticks out');
    for (const [other, b] of labels.slice(index + 1))
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2)
        overlaps.push(text + ' on ' + other);
  });
}
const cut = [...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1);
const looks = {
  title: document.title, text: document.body.innerText,
  window: document.documentElement.clientWidth, page: document.documentElement.scrollWidth,
  cut: cut.map(e => e.innerText.split(/\s/)[0] + ' ' + e.scrollWidth + ' in ' + e.clientWidth), overlaps,
  background: getComputedStyle(document.body).backgroundColor,
};
document.documentElement.innerHTML = '<body><pre></pre></body>';
document.querySelector('pre').textContent = JSON.stringify(looks);
</script>"#;

/// The browser, or a visible `SKIP:` line where there is none.
///
/// # Panics
/// If there is none and `NUMA_AGENT_FORBID_SKIP` is 1.
#[must_use]
pub fn browser_or_skip() -> Option<Browser> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = || std::env::split_paths(&path);
    let found = NAMES.iter().find_map(|name| places().map(|dir| dir.join(name)).find(|file| file.is_file()));
    if found.is_none() {
        crate::skip("no Chromium in PATH: `cargo xtask setup --tests` installs it");
    }
    found.map(|program| Browser { program })
}

impl Browser {
    /// What the browser says on its console as it loads the page: errors of scripts, things refused or not found.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn console(&self, html: &str) -> Vec<String> {
        let (_, said) = self.load(html, 1280, false);
        said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect()
    }

    /// How the page looks in a window of that width, with or without the wish for dark.
    ///
    /// # Panics
    /// If it cannot be run, or does not say.
    #[must_use]
    pub fn looks(&self, html: &str, width: u32, dark: bool) -> Looks {
        let policy = html.find("<meta http-equiv").expect("the page forbids scripts");
        let end = policy + html[policy..].find('>').expect("an end") + 1;
        let page =
            format!("{}{}", &html[..policy], &html[end..]).replace("</body>", &format!("{MEASURE}</body>"));
        let (dom, said) = self.load(&page, width, dark);
        let looks = dom.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>"));
        let (looks, _) = looks.unwrap_or_else(|| panic!("nothing measured: {dom}\n{said}"));
        let looks = [("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", "\u{a0}"), ("&amp;", "&")]
            .iter()
            .fold(looks.to_owned(), |text, (entity, c)| text.replace(entity, c));
        serde_json::from_str(&looks).unwrap_or_else(|error| panic!("{error}: {looks}"))
    }

    /// The document after loading, and what was said on standard error.
    fn load(&self, html: &str, width: u32, dark: bool) -> (String, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let page: &Path = &dir.path().join("page.html");
        fs::write(page, html).expect("the page is written");
        let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(!dark));
        let output = Command::new("timeout")
            .arg(PATIENCE_SECONDS)
            .arg(&self.program)
            // Its sandbox refuses root; the page is ours.
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args(["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", &scheme])
            .arg(format!("--window-size={width},1000"))
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg(format!("file://{}", page.display()))
            .output()
            .expect("the browser starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", output.status);
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    }
}
