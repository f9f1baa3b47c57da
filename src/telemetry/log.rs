//! Log lines: one flat JSON object each, or text for people.

use std::fmt;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::{Format, Settings};
use crate::model::Timestamp;

/// Sends the log of the whole process to `writer` from now on; once per process.
///
/// # Errors
/// [`LogError`] when the filter is none, or when logging was started before.
pub fn start_logging<W>(settings: &Settings, writer: W) -> Result<(), LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let subscriber = subscriber(settings, writer)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)
}

/// Whether `text` is a filter.
///
/// # Errors
/// [`FilterError`] when it is none.
pub fn check_filter(text: &str) -> Result<(), FilterError> {
    filter(text).map(drop)
}

/// Why a text is no log filter.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// One of its directives is none.
    #[error(
        "expected a level (`off error warn info debug trace`) or directives such as `info,countersign::flow=debug`"
    )]
    Directive,
    /// Longer than 1024 bytes.
    #[error("a filter has at most {FILTER_LEN_MAX} bytes")]
    Length,
}

/// Why logging could not be started.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The filter is none.
    #[error("log filter: {0}")]
    Filter(#[from] FilterError),
    /// It was started before.
    #[error("logging was started before")]
    Started,
}

fn subscriber<W>(settings: &Settings, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, FilterError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_env_filter(filter(&settings.filter)?).with_writer(writer);
    Ok(match settings.format {
        Format::Json => Box::new(lines.event_format(JsonLines).finish()),
        Format::Text => Box::new(lines.with_ansi(false).finish()),
    })
}

fn filter(text: &str) -> Result<EnvFilter, FilterError> {
    if text.len() > FILTER_LEN_MAX {
        return Err(FilterError::Length);
    }
    // A bare word would be taken for a target: `inof` must not silence the log.
    let level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let bare_ok =
        |part: &str| part.contains(['=', ':', '[']) || level(part) || part.starts_with("countersign");
    if !text.split(',').all(|part| bare_ok(part.trim())) {
        return Err(FilterError::Directive);
    }
    EnvFilter::builder().parse(text).map_err(|_| FilterError::Directive)
}

/// `{"ts":…,"level":…,"target":…,"message":…}` and the event's fields beside them.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let mut fields = Fields { message: String::new(), rest: Vec::new() };
        event.record(&mut fields);
        write!(line, "{{\"ts\":\"{}\",\"level\":\"{}\"", Timestamp::now(), meta.level())?;
        write!(line, ",\"target\":{},\"message\":{}", json(meta.target()), json(fields.message))?;
        for (name, value) in fields.rest {
            // A field must not pass for one of ours.
            let name = if OURS.contains(&name) { format!("{name}_") } else { name.to_owned() };
            write!(line, ",{}:{value}", json(name))?;
        }
        writeln!(line, "}}")
    }
}

struct Fields {
    message: String,
    rest: Vec<(&'static str, Value)>,
}

impl Fields {
    fn text(&mut self, field: &Field, text: &str) {
        let mut cut: String = text.chars().take(FIELD_LEN_MAX).collect();
        if cut.len() < text.len() {
            cut.push('…');
        }
        match field.name() {
            "message" => self.message = cut,
            name => self.rest.push((name, Value::String(cut))),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.rest.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.rest.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.rest.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.rest.push((field.name(), value.into()));
    }
}

fn json(text: impl Into<String>) -> Value {
    Value::String(text.into())
}

/// Keys of every line.
const OURS: [&str; 4] = ["ts", "level", "target", "message"];
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Characters of one field that are written.
const FIELD_LEN_MAX: usize = 4096;
/// Longest filter in bytes.
const FILTER_LEN_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn play(format: Format, filter: &str, events: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let settings = Settings { format, filter: filter.into() };
        let subscriber = subscriber(&settings, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_is_one_flat_object_with_its_time() {
        let text = play(Format::Json, "info", || {
            tracing::info!(flow = 7u64, peer = "spiffe://a/b", ok = true, "opened \"it\"\nnow");
            tracing::debug!("not told");
        });
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "opened \"it\"\nnow");
        assert_eq!(line["flow"], 7);
        assert_eq!(line["peer"], "spiffe://a/b");
        assert_eq!(line["ok"], true);
        assert_eq!(line["target"], module_path!());
        let ts = line["ts"].as_str().unwrap();
        assert!(ts.len() == 24 && ts.ends_with('Z'), "{ts}");
    }

    #[test]
    fn a_field_cannot_pass_for_the_level_of_a_line() {
        let text = play(Format::Json, "info", || tracing::info!(level = "ERROR", ts = 0, "hello"));
        let line: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["level_"], "ERROR");
        assert_eq!(line["ts_"], 0);
    }

    #[test]
    fn a_field_longer_than_its_bound_is_cut() {
        let text = play(Format::Json, "info", || tracing::info!(name = "ä".repeat(FIELD_LEN_MAX + 1)));
        let line: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(line["name"].as_str().unwrap().chars().count(), FIELD_LEN_MAX + 1);
        assert!(line["name"].as_str().unwrap().ends_with('…'));
    }

    #[test]
    fn a_text_line_is_for_people_and_stays_one_line() {
        let text = play(Format::Text, "info", || tracing::warn!(peer = "a\nb", "hello"));
        assert!(text.contains("WARN") && text.contains("hello"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_filter_is_levels_or_directives() {
        for text in ["info", "WARN", "off", "info,countersign::flow=debug", "h2=warn, info", "countersign"] {
            assert_eq!(check_filter(text), Ok(()), "{text}");
        }
        for text in ["", "inof", "info,,warn", "countersign=loud", "a=b=c"] {
            assert_eq!(check_filter(text), Err(FilterError::Directive), "{text}");
        }
        assert_eq!(check_filter(&"info,".repeat(300)), Err(FilterError::Length));
    }
}
