//! `/v2/tasks` as `text/plain`, which recent Marathons do not have any more → apps. It lists tasks that run, and knows neither labels nor checks.
//!
//! ```text
//! prod_web⇥10001⇥10.0.0.1:31001⇥10.0.0.2:31005⇥
//! worker⇥ ⇥10.0.0.1 10.0.0.2
//! ```
//!
//! One line for each service port of an app. The second app has none: its hosts are separated by blanks. So a line is split at tabs, and
//! never at blanks, or a part of an address would become a port.

use super::apps::{Apps, Port, Reading, Task};
use crate::config::Problem;

/// Reads an answer.
///
/// # Errors
/// A sentence, if nothing in it is such a line.
pub(super) fn read(text: &str) -> Result<Reading, String> {
    let mut reading = Reading::default();
    let mut is_any = false;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match read_line(line, &mut reading.apps) {
            Ok(bad) => {
                is_any = true;
                let problem = |address| Problem::error(format!("`{address}` is not the address of a task")).effect("it gets no requests");
                let title = format!("app {}", line.split('\t').next().unwrap_or_default());
                reading.problems.extend(bad.into_iter().map(|address| (title.clone(), problem(address))));
            }
            Err(message) => reading.problems.push(("tasks".into(), Problem::error(message).effect("the line is left out"))),
        }
    }
    match reading.problems.first() {
        Some((_, problem)) if !is_any => Err(format!("the answer is no list of tasks: {}", problem.message)),
        _ => Ok(reading),
    }
}

/// Adds what a line says. The addresses in it that are none.
fn read_line<'a>(line: &'a str, apps: &mut Apps) -> Result<Vec<&'a str>, String> {
    let mut fields = line.split('\t');
    let (Some(name), Some(port), Some(first)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(format!("a line has an app, a service port and tasks, separated by tabs, and this one has not: `{}`", shown(line)));
    };
    let (name, port) = (name.trim(), port.trim());
    if name.is_empty() {
        return Err(format!("a line has no app: `{}`", shown(line)));
    }
    let port = match port {
        "" => None,
        port => {
            let port = port.parse::<u16>().ok().filter(|port| *port > 0);
            Some(port.ok_or_else(|| format!("the service port of `{}` is not a number from 1 to 65535", shown(name)))?)
        }
    };
    let app = apps.entry(name.to_owned()).or_default();
    app.title = format!("app {name}");
    // Hosts alone, which cannot be connected to.
    let Some(port) = port else { return Ok(Vec::new()) };
    let index = app.ports.len();
    app.ports.push(Port { number: Some(port), service_port: Some(port), is_udp: false });
    let mut bad = Vec::new();
    for address in std::iter::once(first).chain(fields).map(str::trim).filter(|address| !address.is_empty()) {
        match split_address(address) {
            Some((host, port)) => {
                let task = app.tasks.entry(address.to_owned()).or_insert_with(|| Task { host: Some(host.to_owned()), ..Task::default() });
                task.reached.resize(index, None);
                task.reached.push(Some((host.to_owned(), port)));
            }
            None => bad.push(address),
        }
    }
    Ok(bad)
}

fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty() && !["0.0.0.0", "::"].contains(&host) && !host.contains(char::is_whitespace)).then_some((host, port))
}

/// The start of what may be long.
fn shown(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &[&str], problems: usize) {
        let reading = read(text).unwrap();
        let ports = reading.apps.iter().flat_map(|(name, app)| {
            let of_port = move |(index, port): (usize, &Port)| {
                let at = |task: &Task| task.reached.get(index)?.as_ref().map(|(host, port)| format!("{host}:{port}"));
                format!(
                    "{name} {} {}",
                    port.service_port.unwrap_or_default(),
                    app.tasks.values().filter_map(at).collect::<Vec<_>>().join(" ")
                )
            };
            app.ports.iter().enumerate().map(of_port)
        });
        assert_eq!(ports.collect::<Vec<_>>(), expected, "{text}");
        assert_eq!(reading.problems.len(), problems, "{:?}", reading.problems);
    }

    #[test]
    fn lines_are_apps_with_their_ports() {
        check("prod_web\t10001\t10.0.0.1:31001\thost-2:31005\t\n", &["prod_web 10001 10.0.0.1:31001 host-2:31005"], 0);
        let two = "web\t10001\t10.0.0.1:31001\t\nweb\t10002\t10.0.0.1:31002\t10.0.0.2:7\t\nidle\t10003\t\n";
        check(two, &["idle 10003 ", "web 10001 10.0.0.1:31001", "web 10002 10.0.0.1:31002 10.0.0.2:7"], 0);
        check("v6\t1\t[fd00::1]:5\t\n", &["v6 1 fd00::1:5"], 0);
        check("", &[], 0);
    }

    /// Frontrunner took this for a listener on port 10.
    #[test]
    fn an_app_without_service_ports_has_none() {
        check("worker\t \t10.0.0.1 10.0.0.2 \n", &[], 0);
        assert!(read("worker\t \t10.0.0.1 10.0.0.2 \n").unwrap().apps.contains_key("worker"));
    }

    #[test]
    fn bad_lines_leave_the_others() {
        let text = "web\t10001\t10.0.0.1:31001\t10.0.0.2:0\tx\t\nnonsense\nweb\tmany\t\n\t1\t\n";
        check(text, &["web 10001 10.0.0.1:31001"], 5);
        assert!(read("<html>login</html>\n").unwrap_err().contains("no list of tasks"));
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "([a-z_]{0,4}\t? ?[0-9]{0,6}\t?([0-9.:a-z\\[\\]]{0,9}\t?){0,3}\n){0,4}|.{0,60}") {
            let _ = read(&text);
        }
    }
}
