//! Small files that are replaced whole. What is in them is not known here.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Writes `text` as the file `name` of `dir`, its owner's alone. Whoever reads it, after a crash too, finds the old text
/// or the new one, and what this has returned for is on disk. A link under the name is replaced, and never followed.
///
/// # Errors
/// The file system's; the old file is still there then.
pub fn replace(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "theirs").unwrap();
        symlink(&elsewhere, dir.path().join("note")).unwrap();
        symlink(&elsewhere, dir.path().join("note.new")).unwrap();
        for text in ["longer than the next", "ours"] {
            replace(dir.path(), "note", text).unwrap();
            let note = dir.path().join("note");
            assert_eq!(fs::read_to_string(&note).unwrap(), text);
            assert_eq!(fs::symlink_metadata(&note).unwrap().mode(), 0o100600);
        }
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "theirs");
        assert!(!dir.path().join("note.new").exists());
    }
}
