//! House rules that a compiler does not check and clippy cannot: who may import whom, and what stays out of which part of the tree.
//!
//! Only text is looked at, comments and unit tests left out unless a rule says otherwise: a unit test may build whatever it needs.
//! A rule that has to be broken is broken here, by name and with the reason. Rules about single calls are in clippy.toml.

#![allow(clippy::unwrap_used, reason = "all of it is a test, its functions too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The layers, lowest first. An area imports from layers below its own; areas of one layer know nothing of each other.
///
/// ```text
/// cli ─► server ─► admin ─► control ─► discovery, health, proxy ─► routing ─► config ─► rule, balance, middleware ─► (the small ones)
/// ```
const LAYERS: &[&[&str]] = &[
    &["names", "socket"],
    &["access", "backoff", "duration", "metrics", "network", "proxy_protocol", "suggest", "tls_error"],
    &["balance", "middleware", "rule"],
    &["config"],
    &["routing"],
    &["discovery", "health", "proxy"],
    &["control", "register"],
    &["admin"],
    &["server"],
    &["cli"],
    &["lib", "main"],
];

/// What the layers would allow and the design does not: (who, whom, why).
const NEVER: &[(&str, &str, &str)] = &[("discovery", "routing", "a provider cannot see the table")];

/// Parts that are pure: time, seeds and files are arguments.
const PURE: &[&str] = &["rule", "balance", "routing"];

/// What a pure part does not touch.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "std::net::Tcp",
    "std::net::Udp",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "tokio::",
    "Instant::now",
    "SystemTime::now",
    ".elapsed()",
    "rand::",
    "fastrand::",
    "getrandom::",
];

/// Where it is touched all the same: (file, what, why).
const IMPURE_ALLOWED: &[(&str, &str, &str)] =
    &[("routing/sticky.rs", "rand::", "makes a new key for who starts the process; no table or request ever asks for one")];

/// Crates that speak to one outside system each: one file imports each of them, so that it can be replaced.
const CLIENTS: &[&str] = &["bollard", "etcd_client", "hickory_resolver", "instant_acme", "notify", "rs_consul", "zookeeper_client"];

/// What only the binary may do, because a library does not own the process.
const PROCESS: &[&str] = &[
    "clap::",
    "comfy_table::",
    "mimalloc::",
    "std::env::",
    "set_global_recorder",
    "set_global_default",
    "tokio::signal",
    "tracing_subscriber::",
];

/// The most lines of a file, unit tests not counted.
const LINES_MAX: usize = 600;

/// Longer files, and why they are not split.
const LONG: &[(&str, &str)] = &[];

/// One file of src/.
struct Source {
    /// Below src/: `proxy/http.rs`.
    path: String,
    /// As it is.
    text: String,
    /// Without comments and unit tests, lines kept in number up to the unit tests.
    code: String,
}

impl Source {
    fn area(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// The numbers of the lines of code that hold `needle`, not as the end of a longer word.
    fn lines_with(&self, needle: &str) -> Vec<usize> {
        let is_word = |text: &str| text.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let holds =
            |line: &str| line.match_indices(needle).any(|(at, _)| !needle.starts_with(char::is_alphabetic) || !is_word(&line[..at]));
        (1..).zip(self.code.lines()).filter(|(_, line)| holds(line)).map(|(number, _)| number).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder of the repository, sorted.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// src/ without the files that are compiled for unit tests only.
fn sources() -> Vec<Source> {
    let below = |path: &Path| path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_string();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        Source { path: below(&path), code: code_of(&text), text }
    };
    let sources: Vec<Source> = rust_files("src").into_iter().map(read).collect();
    let for_tests: BTreeSet<String> = sources.iter().flat_map(test_modules).collect();
    sources.into_iter().filter(|source| !for_tests.contains(&source.path)).collect()
}

/// The text up to its unit tests, which are last in a file, without comments.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{')) {
            break;
        }
        let line = if line.trim_start().starts_with("//") { "" } else { line };
        // A `//` inside a string is that of a URL.
        let end = line.find(" // ").unwrap_or(line.len());
        writeln!(code, "{}", &line[..end]).unwrap();
    }
    code
}

/// The files of `#[cfg(test)] mod name;`.
fn test_modules(source: &Source) -> Vec<String> {
    let folder = source.path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let declarations = source.text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| rest.lines().next()?.strip_suffix(';'));
    declarations.filter_map(|line| line.rsplit_once("mod ")).map(|(_, name)| format!("{folder}{name}.rs")).collect()
}

/// The areas named after `crate::`, also in braces.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut areas = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$')) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            areas.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut is_start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_start = true,
                c if is_start && c.is_alphabetic() => {
                    areas.insert(word(&group[at..]));
                    is_start = false;
                }
                _ => (),
            }
        }
    }
    areas
}

#[track_caller]
fn check_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}\n", found.join("\n  "));
}

#[test]
fn areas_import_from_layers_below_theirs() {
    let layers: BTreeMap<&str, usize> = (0..).zip(LAYERS).flat_map(|(layer, areas)| areas.iter().map(move |area| (*area, layer))).collect();
    let mut found = Vec::new();
    for source in sources() {
        let area = source.area();
        let Some(layer) = layers.get(area) else {
            found.push(format!("src/{}: the area `{area}` has no layer yet: give it one in tests/tidy.rs", source.path));
            continue;
        };
        for import in imports(&source.code) {
            let reason = match layers.get(import.as_str()) {
                _ if import == area => continue,
                // An item of lib.rs, or a macro.
                None => "only modules are imported from the crate's root".to_string(),
                Some(below) if below < layer => match NEVER.iter().find(|(who, whom, _)| *who == area && *whom == import) {
                    None => continue,
                    Some((_, _, why)) => (*why).to_string(),
                },
                Some(_) => format!("`{import}` is not below `{area}`"),
            };
            found.push(format!("src/{} imports crate::{import}: {reason}", source.path));
        }
        let is_nested = source.path.split('/').count() == 2;
        if is_nested && !source.lines_with("super::super::").is_empty() {
            found.push(format!("src/{}: write `crate::` for what is in another area", source.path));
        }
    }
    check_none("imports against the layers", &found);
}

#[test]
fn the_pure_core_is_pure() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.area())) {
        for what in IMPURE {
            let is_allowed = IMPURE_ALLOWED.iter().any(|(path, allowed, _)| source.path == *path && what == allowed);
            let lines = source.lines_with(what).into_iter().filter(|_| !is_allowed);
            found.extend(lines.map(|line| format!("src/{}:{line}: {what}", source.path)));
        }
    }
    check_none("no socket, file, clock, thread or global random numbers in rule, balance and routing", &found);
}

#[test]
fn each_client_crate_is_imported_by_one_file() {
    let sources = sources();
    let mut found = Vec::new();
    for client in CLIENTS {
        let importers = sources.iter().filter(|source| !source.lines_with(&format!("{client}::")).is_empty());
        let importers: Vec<&str> = importers.map(|source| source.path.as_str()).collect();
        if importers.len() > 1 {
            found.push(format!("{client}: {}", importers.join(", ")));
        }
    }
    check_none("client crates in several files", &found);
}

#[test]
fn only_the_binary_owns_the_process() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !matches!(source.area(), "main" | "cli")) {
        for what in PROCESS {
            found.extend(source.lines_with(what).into_iter().map(|line| format!("src/{}:{line}: {what}", source.path)));
        }
    }
    check_none("arguments, environment, signals and global loggers belong to the binary", &found);
}

#[test]
fn every_task_has_an_owner() {
    let mut found = Vec::new();
    for source in sources() {
        // `spawn_local` is fine: a worker's tasks belong to its own runtime, which ends with its thread.
        for what in ["tokio::spawn(", "tokio::task::spawn(", "task::spawn("] {
            found.extend(source.lines_with(what).into_iter().map(|line| format!("src/{}:{line}: {what}", source.path)));
        }
    }
    found.dedup();
    check_none("tasks are spawned on a TaskTracker or JoinSet, which waits for them", &found);
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut found = Vec::new();
    for source in sources() {
        let lines = source.code.lines().count();
        match LONG.iter().find(|(path, _)| *path == source.path) {
            None if lines > LINES_MAX => {
                found.push(format!("src/{}: {lines} lines without its unit tests, more than {LINES_MAX}: split it", source.path));
            }
            Some(_) if lines <= LINES_MAX => found.push(format!("src/{}: short again, take it off the list in tests/tidy.rs", source.path)),
            _ => (),
        }
        if !source.text.starts_with("//!") {
            found.push(format!("src/{}: starts with `//!`: what this is, what it is not, who calls it", source.path));
        }
    }
    check_none("files", &found);
}

#[test]
fn nothing_is_left_for_later() {
    // In two pieces each, so that this file is looked at too.
    let words = [("#[ign", "ore"), ("#[should_", "panic"), ("todo", "!("), ("unimplemented", "!("), ("dbg", "!(")];
    let mut found = Vec::new();
    for path in ["src", "tests", "benches", "fuzz/fuzz_targets"].into_iter().flat_map(rust_files) {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in words.map(|(start, end)| format!("{start}{end}")) {
            let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//") && line.contains(&word));
            found.extend(lines.map(|(line, _)| format!("{}:{line}: {word}", path.display())));
        }
    }
    check_none("left for later", &found);
}

#[test]
fn every_dependency_says_what_for() {
    let mut found = Vec::new();
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let text = std::fs::read_to_string(root().join(manifest)).unwrap();
        let mut is_in_dependencies = false;
        for (number, line) in (1..).zip(text.lines()) {
            if line.starts_with('[') {
                is_in_dependencies = line.trim_end().ends_with("dependencies]");
            } else if is_in_dependencies && line.contains('=') && !line.contains(" # ") && !line.starts_with('#') {
                found.push(format!("{manifest}:{number}: {line}"));
            }
        }
    }
    check_none("dependencies without a comment", &found);
}

#[test]
fn imports_are_seen_in_every_form() {
    let check =
        |code: &str, expected: &[&str]| assert_eq!(imports(code).iter().map(String::as_str).collect::<Vec<_>>(), expected, "{code}");
    check("use crate::names::Name;", &["names"]);
    check("use crate::{config::{self, Entry}, names::Name};", &["config", "names"]);
    check("fn f(x: crate::rule::Rule) -> Vec<crate::config::Route>", &["config", "rule"]);
    check("use my_crate::a; $crate::b", &[]);
    let code = code_of("//! crate::a\nuse crate::b; // crate::c\n#[cfg(test)]\nmod tests {\nuse crate::d;\n}\n");
    check(&code, &["b"]);
}
