//! A page of the documentation, whose commands are run as its reader would.

use std::path::Path;

use super::dockerd::Dockerd;

/// A page of docs/.
pub struct Page {
    name: String,
    text: String,
}

impl Page {
    /// Reads `docs/{name}`.
    pub fn open(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { name: name.to_owned(), text }
    }

    /// The shell commands under a headline.
    pub fn commands(&self, headline: &str) -> Vec<String> {
        let sections = self.text.split("\n## ").find(|section| section.lines().next() == Some(headline));
        let section = sections.unwrap_or_else(|| panic!("docs/{} has no section `{headline}`", self.name));
        let blocks: Vec<String> =
            section.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect();
        assert!(!blocks.is_empty(), "docs/{}: no commands under `{headline}`", self.name);
        blocks
    }

    /// Runs the commands under a headline in `directory`, with `engine` as the Docker engine, in its network. What they print.
    pub fn run(&self, headline: &str, engine: &Dockerd, directory: &Path) -> String {
        let run = |commands: &String| engine.shell(directory, &[], commands);
        self.commands(headline).iter().map(run).collect()
    }
}
