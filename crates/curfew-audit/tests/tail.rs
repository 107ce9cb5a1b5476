//! The last lines of a log are read from its end, and are those that reading it from its start gives.
#![cfg(test)]

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, symlink},
    path::{Path, PathBuf},
};

use curfew_audit::{MAX_RECORD, export, tail};
use proptest::prelude::*;

fn segment(dir: &Path, first: usize) -> PathBuf {
    dir.join(format!("{first:020}.jsonl"))
}

/// Lengths of lines with their newlines, those of interest among them.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    let length = prop_oneof![
        4 => 1..400_usize,
        1 => MAX_RECORD - 1..=MAX_RECORD + 1,
        1 => 2 * MAX_RECORD - 1..=2 * MAX_RECORD + 1,
        1 => 1..3 * MAX_RECORD,
    ];
    prop::collection::vec(length, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_end_is_what_reading_from_the_start_gives(
        segments in prop::collection::vec(lengths(), 1..4),
        unfinished in 0..3 * MAX_RECORD,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut first = 1;
        let mut last = PathBuf::new();
        for lines in &segments {
            let text = lines.iter().enumerate().map(|(at, &length)| {
                let mut line = (first + at).to_string() + &"x".repeat(length);
                line.truncate(length - 1);
                line + "\n"
            });
            last = segment(dir.path(), first);
            fs::write(&last, text.collect::<String>()).unwrap();
            first += lines.len().max(1);
        }
        let whole = fs::read(&last).unwrap();
        fs::write(&last, [whole, vec![b'y'; unfinished]].concat()).unwrap();
        let all: Vec<String> = export(dir.path(), 0).unwrap().map(Result::unwrap).collect();
        for count in 0..=all.len() + 1 {
            let from = all.len().saturating_sub(count);
            prop_assert!(tail(dir.path(), count).unwrap() == all[from..], "the last {count}");
        }
    }
}

#[test]
fn the_last_lines_of_a_large_segment_take_no_reading_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = File::create(segment(dir.path(), 1)).unwrap();
    let size = 256 << 20;
    file.write_all_at(b"\n{\"seq\":2}\n{\"seq\":3}\n", size)
        .unwrap();
    let read = || {
        let counts = fs::read_to_string("/proc/thread-self/io").unwrap();
        let count = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
        count.unwrap().parse::<u64>().unwrap()
    };
    let before = read();
    let last = tail(dir.path(), 2).unwrap();
    assert_eq!(last, ["{\"seq\":2}", "{\"seq\":3}"]);
    assert!(read() - before < 1 << 20, "{} bytes read", read() - before);
}

#[test]
fn a_segment_that_retention_removes_meanwhile_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    // Listed, and not there when it is opened.
    symlink(dir.path().join("gone"), segment(dir.path(), 1)).unwrap();
    fs::write(segment(dir.path(), 2), "{\"seq\":2}\n{\"seq\":3}\n").unwrap();
    assert_eq!(tail(dir.path(), 9).unwrap(), ["{\"seq\":2}", "{\"seq\":3}"]);
}
