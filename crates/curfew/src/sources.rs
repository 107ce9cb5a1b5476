//! Reading sources from disk: a file, or every policy document of a folder. What they mean is for others.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// Larger files are no source, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Files of one folder.
const MAX_FILES: usize = 10_000;
/// Reads of a folder that is being written before it is given up.
const MAX_READS: usize = 10;

/// Why sources cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The system refused.
    #[error("{}: cannot be read: check that the path is right and readable", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It is a pipe, a socket or a device: reading it could take for ever.
    #[error("{}: is no regular file: write the documents to one, or leave it out", .0.display())]
    NotAFile(PathBuf),
    /// It is no text.
    #[error("{}: is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// A file is too large.
    #[error("{}: larger than 4 MiB: name another file, or split it", .0.display())]
    TooLarge(PathBuf),
    /// A folder holds too many files.
    #[error("{}: more than {MAX_FILES} policy files", .0.display())]
    TooMany(PathBuf),
    /// A folder holds none.
    #[error("{}: holds no .yaml, .yml or .json file: name the folder with the policy documents", .0.display())]
    Empty(PathBuf),
    /// A folder did not stand still.
    #[error("{}: changed while it was read, {MAX_READS} times: write it elsewhere and move it here", .0.display())]
    Unsteady(PathBuf),
}

/// A source: its name as it is shown, and its text.
pub type Source = (String, String);

/// Reads a file, or the `.yaml`, `.yml` and `.json` files of a folder and its folders in the order of their names.
/// A folder is taken when two reads agree.
///
/// # Errors
/// [`SourceError`]: what, where, and what to do.
pub fn read(path: &Path) -> Result<Vec<Source>, SourceError> {
    if !metadata(path)?.is_dir() {
        return Ok(vec![read_file(path)?]);
    }
    let mut before = read_folder(path)?;
    for _ in 0..MAX_READS {
        let again = read_folder(path)?;
        if again == before {
            return if again.is_empty() {
                Err(SourceError::Empty(path.to_owned()))
            } else {
                Ok(again)
            };
        }
        before = again;
    }
    Err(SourceError::Unsteady(path.to_owned()))
}

fn read_folder(folder: &Path) -> Result<Vec<Source>, SourceError> {
    let mut files = Vec::new();
    list(folder, &mut files, 0)?;
    files.sort();
    files.iter().map(|file| read_file(file)).collect()
}

/// Folders whose name starts with a dot are left out: mounted volumes keep their older versions there.
fn list(folder: &Path, files: &mut Vec<PathBuf>, depth: usize) -> Result<(), SourceError> {
    let io = |source| SourceError::Io {
        path: folder.to_owned(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.') {
            continue;
        }
        let policy = path
            .extension()
            .is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
        if metadata(&path)?.is_dir() {
            if depth < 16 {
                list(&path, files, depth + 1)?;
            }
        } else if policy {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(SourceError::TooMany(folder.to_owned()));
        }
    }
    Ok(())
}

fn metadata(path: &Path) -> Result<fs::Metadata, SourceError> {
    fs::metadata(path).map_err(|source| SourceError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Reads one file.
///
/// # Errors
/// [`SourceError`]: what, where, and what to do.
pub fn read_file(path: &Path) -> Result<Source, SourceError> {
    let io = |source| SourceError::Io {
        path: path.to_owned(),
        source,
    };
    let regular = |metadata: &fs::Metadata| match metadata.is_file() || metadata.is_dir() {
        true => Ok(()),
        false => Err(SourceError::NotAFile(path.to_owned())),
    };
    // Before it is opened, which can do something to a device, and then what was opened. No open waits for a writer.
    regular(&metadata(path)?)?;
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(io)?;
    regular(&file.metadata().map_err(io)?)?;
    let mut bytes = Vec::new();
    // Not by the length that the system tells: some files have none, and no end.
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(SourceError::TooLarge(path.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| SourceError::NotText(path.to_owned()))?;
    Ok((path.display().to_string(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_order_and_without_hidden_versions() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a")).unwrap();
        fs::create_dir_all(folder.path().join("..2026_data")).unwrap();
        for (name, text) in [
            ("b.yaml", "1"),
            ("a/x.json", "2"),
            ("..2026_data/b.yaml", "3"),
            ("README.md", "4"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let texts: Vec<String> = read(folder.path())
            .unwrap()
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(texts, ["2", "1"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(SourceError::Empty(_))));
        assert!(matches!(
            read(&folder.path().join("none")),
            Err(SourceError::Io { .. })
        ));
        let path = folder.path().join("x.yaml");
        fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read(&path), Err(SourceError::NotText(_))));
    }
}
