//! A backend of vulcand → the settings of an upstream.

use std::time::Duration;

use super::super::groups::Settings;
use super::super::json::Fields;
use crate::config::upstream::UpstreamTls;
use crate::config::{Problem, Upstream};

/// How long vulcand waits for a connection unless it is told otherwise.
const DIAL_DEFAULT: Duration = Duration::from_secs(5);

/// Reads a backend.
///
/// `Timeouts.TLSHandshake` is part of our time for a connection. `KeepAlive.Period`, and of `TLS` all but `InsecureSkipVerify`, say
/// nothing to us: TLS is 1.2 or 1.3 with the suites of both.
pub(in super::super) fn decode(value: &[u8]) -> Result<Settings, Problem> {
    let value = super::object(value)?;
    let backend = Fields(&value);
    super::is_http(&backend)?;
    let settings = super::section(&backend, "Settings")?;
    let timeouts = super::section(&settings, "Timeouts")?;
    let mut upstream = Upstream::default();
    upstream.timeouts.connect = duration(&timeouts, "Dial")?.unwrap_or(DIAL_DEFAULT);
    duration(&timeouts, "TLSHandshake")?;
    if let Some(read) = duration(&timeouts, "Read")? {
        upstream.timeouts.response_header = read;
    }
    let keepalive = super::section(&settings, "KeepAlive")?;
    duration(&keepalive, "Period")?;
    let idle_max = super::number(&keepalive, "MaxIdleConnsPerHost")?;
    if idle_max > 0 {
        upstream.keepalive.idle_max = u16::try_from(idle_max).unwrap_or(u16::MAX);
    }
    let insecure_skip_verify = super::flag(&super::section(&settings, "TLS")?, "InsecureSkipVerify")?;
    Ok(Settings { upstream, tls: UpstreamTls { insecure_skip_verify, ..UpstreamTls::default() } })
}

/// A field that is a duration. None: it is absent, empty or zero.
fn duration(fields: &Fields<'_>, name: &str) -> Result<Option<Duration>, Problem> {
    let text = super::text(fields, name)?;
    if text.is_empty() {
        return Ok(None);
    }
    let duration =
        parse_duration(text).ok_or_else(|| Problem::error(format!("`{name}` is not a duration such as \"1m30s\" or \"500ms\"")))?;
    Ok((!duration.is_zero()).then_some(duration))
}

/// The units of Go's durations, longer names first, in nanoseconds.
const UNITS: [(&str, f64); 8] = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];

/// The longest duration, in nanoseconds: a year.
const NANOS_MAX: f64 = 365.0 * 24.0 * 3.6e12;

/// Go's durations: `1h0m0s`, `1.5h`, `300ms`, `0`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, scale) = UNITS.iter().find(|(unit, _)| behind.starts_with(unit))?;
        nanos += number.parse::<f64>().ok()? * scale;
        rest = behind.strip_prefix(unit)?;
    }
    (!text.is_empty() && nanos <= NANOS_MAX).then(|| Duration::from_nanos(nanos as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_carried_over() {
        let backend = br#"{"Id":"b1","Type":"http","Settings":{"Timeouts":{"Read":"5s","Dial":"1.5s","TLSHandshake":"10s"},"KeepAlive":{"Period":"30s","MaxIdleConnsPerHost":12},"TLS":{"insecureskipverify":true}}}
"#;
        let Settings { upstream, tls } = decode(backend).unwrap();
        let timeouts = (upstream.timeouts.response_header, upstream.timeouts.connect);
        assert_eq!(timeouts, (Duration::from_secs(5), Duration::from_millis(1500)));
        assert_eq!((upstream.keepalive.idle_max, tls.insecure_skip_verify), (12, true));
        let plain = decode(br#"{"type":"http","Settings":null}"#).unwrap();
        assert_eq!(plain.upstream.timeouts.connect, DIAL_DEFAULT);
        assert!(!plain.tls.insecure_skip_verify);
    }

    #[test]
    fn what_is_no_backend_says_so() {
        for (value, message) in [
            ("{}", "`Type` is \"\""),
            ("", "not JSON"),
            ("[]", "not a JSON object"),
            (r#"{"Type":"http","Settings":[]}"#, "`Settings` is not an object"),
            (r#"{"Type":"http","Settings":{"Timeouts":{"Read":"5"}}}"#, "`Read` is not a duration"),
            (r#"{"Type":"http","Settings":{"Timeouts":{"Read":5}}}"#, "`Read` is not a string"),
            (r#"{"Type":"http","Settings":{"KeepAlive":{"MaxIdleConnsPerHost":1.0}}}"#, "not a whole number"),
        ] {
            let problem = decode(value.as_bytes()).unwrap_err();
            assert!(problem.message.contains(message), "{value}: {}", problem.message);
        }
    }

    #[test]
    fn durations_of_go() {
        let check = |text: &str, millis: Option<u64>| assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        check("1h0m0s", Some(3_600_000));
        check("1.5h", Some(5_400_000));
        check("300ms", Some(300));
        check("1m30s", Some(90_000));
        check("0", Some(0));
        check("0s", Some(0));
        for text in ["", "5", "s", "-5s", "5 s", "1..5s", "99999999h"] {
            check(text, None);
        }
    }
}
