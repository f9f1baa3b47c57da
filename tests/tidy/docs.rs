//! Holds what the documents say against what the code says.

use std::path::Path;

use countersign::model::Reason;

use crate::rules::Room;

/// Where the table of rooms in `text` differs from `rooms`.
pub fn rooms_differ(text: &str, rooms: &[Room]) -> Vec<String> {
    let rows: Vec<Row> = text.lines().filter_map(Row::read).collect();
    let mut all = Vec::new();
    for room in rooms {
        let Some(row) = rows.iter().find(|r| r.name == room.name) else {
            all.push(format!("docs/ARCHITECTURE.md: no row for `{}` (floor {})", room.name, room.floor));
            continue;
        };
        let mut never: Vec<_> =
            row.never.iter().filter(|n| rooms.iter().any(|r| r.name == **n)).copied().collect();
        // A room above or beside is out of reach by its floor; the table may repeat it for the reader.
        never.retain(|n| rooms.iter().any(|r| r.name == *n && r.floor < room.floor));
        never.sort_unstable();
        let mut expected = room.never.to_vec();
        expected.sort_unstable();
        for (what, wrong) in [
            ("floor", row.floor != room.floor),
            ("state", row.later != room.later),
            ("never", never != expected),
        ] {
            if wrong {
                all.push(format!(
                    "docs/ARCHITECTURE.md: the {what} of `{}` is not what tests/tidy.rs says",
                    room.name
                ));
            }
        }
    }
    for row in rows.iter().filter(|row| !rooms.iter().any(|r| r.name == row.name)) {
        all.push(format!("docs/ARCHITECTURE.md: `{}` is no room of tests/tidy.rs", row.name));
    }
    all
}

/// `| 2 | `capture` | here | what it does | never |`
struct Row<'a> {
    floor: u8,
    name: &'a str,
    later: bool,
    /// Words in backticks of the last column.
    never: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [floor, name, state, _, never] = cells.as_slice() else { return None };
        Some(Self {
            floor: floor.parse().ok()?,
            name: name.strip_prefix('`')?.strip_suffix('`')?,
            later: *state == "later",
            never: ticked(never),
        })
    }
}

/// The words of `text` that stand in backticks.
fn ticked(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The table of reasons as `docs/operating.md` must have it.
pub fn reason_table() -> String {
    let mut table = String::from(
        "| Code | HTTP | Proxy-Status error | What it says | What to do next |\n|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let (code, status, error) = (reason.code(), reason.http_status(), reason.proxy_error());
        let (said, next) = (reason.sentence(), reason.next_step());
        table.push_str(&format!("| `{code}` | {status} | `{error}` | {said} | {next} |\n"));
    }
    table
}

/// `text` with what stands between the marks replaced by `table`; `None` without marks.
pub fn with_table(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(TABLE_BEGIN)?;
    let (_, after) = rest.split_once(TABLE_END)?;
    Some(format!("{before}{TABLE_BEGIN}\n{table}{TABLE_END}{after}"))
}

/// The files that a document names and that are not there: links, and paths of the house in backticks.
pub fn dead_ends(file: &Path, text: &str, root: &Path) -> Vec<String> {
    let folder = file.parent().unwrap_or(root);
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let linked = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let linked = linked.filter(|l| !l.is_empty() && !l.contains("://")).map(|l| (l, folder.join(l)));
        let named = ticked(line).into_iter().filter(|p| TREES.iter().any(|t| p.starts_with(t)));
        let named = named.filter(|p| !p.contains(['*', ' ', '<', '{', '…', '$'])).map(|p| (p, root.join(p)));
        for (shown, path) in linked.chain(named) {
            if !path.exists() {
                let file = file.strip_prefix(root).unwrap_or(file).display();
                all.push(format!("{file}:{}: `{shown}` is not there", number + 1));
            }
        }
    }
    all
}

const TABLE_BEGIN: &str = "<!-- reasons: written by tests/tidy.rs -->";
const TABLE_END: &str = "<!-- reasons: end -->";
/// Paths that begin so are paths of this repository.
const TREES: &[&str] =
    &["src/", "tests/", "docs/", "fuzz/", "deploy/", "policies/", ".ci/", "certs/README.md", "examples/"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{later, room};

    #[test]
    fn a_table_that_differs_is_told() {
        let rooms = [
            room(0, "model", &[]),
            room(2, "channel", &["policy"]),
            room(1, "policy", &[]),
            later(3, "feeds", &[]),
        ];
        let table = "| Floor | Room | State | What | Never |\n|---|---|---|---|---|\n\
            | 0 | `model` | here | x | `tokio` |\n| 1 | `policy` | here | x | `channel` |\n\
            | 2 | `channel` | here | x | `policy` |\n| 3 | `feeds` | later | x | - |\n";
        assert_eq!(rooms_differ(table, &rooms), [""; 0]);
        for (from, to, words) in [
            ("| 2 | `channel`", "| 1 | `channel`", "the floor of `channel`"),
            ("later", "here", "the state of `feeds`"),
            ("x | `policy`", "x | -", "the never of `channel`"),
            ("`model`", "`wonder`", "no row for `model`"),
            ("| 0 | `model` | here", "| 0 | `wonder` | here", "`wonder` is no room"),
        ] {
            let said = rooms_differ(&table.replace(from, to), &rooms);
            assert!(said.iter().any(|s| s.contains(words)), "{words}: {said:?}");
        }
    }

    #[test]
    fn a_dead_end_is_told_with_its_line() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "see [a](b/c.md), `src/lib.rs`, [x](../Cargo.toml#deps)\n`src/gone.rs` `src/*/x` [w](https://example.org)\n";
        let said = dead_ends(&root.join("docs/x.md"), text, root);
        assert_eq!(said, ["docs/x.md:1: `b/c.md` is not there", "docs/x.md:2: `src/gone.rs` is not there"]);
    }

    #[test]
    fn the_table_is_replaced_between_its_marks() {
        let text = format!("a\n{TABLE_BEGIN}\nold\n{TABLE_END}\nb");
        assert_eq!(with_table(&text, "new\n"), Some(format!("a\n{TABLE_BEGIN}\nnew\n{TABLE_END}\nb")));
        assert_eq!(with_table("no marks", "new\n"), None);
    }
}
