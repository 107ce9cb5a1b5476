//! Reading sources from disk: a file, or every policy document of a folder, and the text that they are kept as. What they
//! mean is for others.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use curfew_control::PackError;
use curfew_policy::{Place, Problem};
use rustix::fs::OFlags;

/// Larger files are no source, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Files of one folder.
const MAX_FILES: usize = 10_000;
/// Folders in each other.
const DEPTH: usize = 16;
/// Reads of a folder that is being written before it is given up.
const MAX_READS: usize = 10;

/// Why a source cannot be read, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct SourceError {
    /// What was read.
    path: PathBuf,
    /// Why it cannot be.
    why: Unreadable,
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The system refused.
    #[error("cannot be read: check that the path is right and readable: {0}")]
    Io(io::Error),
    /// It is a pipe, a socket or a device: reading it could take for ever.
    #[error("is no regular file: write the documents to one, or leave it out")]
    NotAFile,
    /// It is no text.
    #[error(
        "is not UTF-8 text: line {line}, column {column}, has the byte {byte:#04x}; save it as UTF-8"
    )]
    NotText {
        /// Where the text ends.
        line: u64,
        /// In characters.
        column: u64,
        /// What is there.
        byte: u8,
    },
    /// A file is too large.
    #[error("larger than 4 MiB: name another file, or split it")]
    TooLarge,
    /// A folder holds too many files.
    #[error(
        "more than {MAX_FILES} policy files and folders: put fewer documents with more in each"
    )]
    TooMany,
    /// A folder holds none.
    #[error("holds no .yaml, .yml or .json file: name the folder with the policy documents")]
    Empty,
    /// A folder is too deep.
    #[error("lies in more than {DEPTH} folders, and is not read: move it up")]
    TooDeep,
    /// A link leads back.
    #[error("leads back to a folder that it is in: remove the link")]
    Circular,
    /// A folder did not stand still.
    #[error("changed while it was read, {MAX_READS} times: write it elsewhere and move it here")]
    Unsteady,
}

impl Unreadable {
    /// Of bytes of which the first so many are text.
    fn text_ends(bytes: &[u8], valid: usize) -> Self {
        let (text, rest) = bytes.split_at_checked(valid).unwrap_or((bytes, &[]));
        let text = String::from_utf8_lossy(text);
        let (before, last) = text
            .rsplit_once('\n')
            .map_or((0, &*text), |(before, last)| {
                (before.split('\n').count(), last)
            });
        let from_one = |before: usize| u64::try_from(before + 1).unwrap_or(u64::MAX);
        Self::NotText {
            line: from_one(before),
            column: from_one(last.chars().count()),
            byte: rest.first().copied().unwrap_or_default(),
        }
    }

    fn at(self, path: &Path) -> SourceError {
        SourceError {
            path: path.to_owned(),
            why: self,
        }
    }

    fn of(path: &Path) -> impl Fn(io::Error) -> SourceError {
        move |error| Self::Io(error).at(path)
    }
}

impl SourceError {
    /// Whether it is a folder without any policy file.
    pub fn is_empty(&self) -> bool {
        matches!(self.why, Unreadable::Empty)
    }

    /// Whether it is about something that is there and could be read if it were another.
    pub fn is_finding(&self) -> bool {
        match &self.why {
            Unreadable::Io(error) => error.kind() != io::ErrorKind::NotFound,
            Unreadable::NotAFile | Unreadable::NotText { .. } | Unreadable::TooLarge => true,
            _ => false,
        }
    }

    /// As a finding about one of several sources.
    pub fn problem(&self) -> Problem {
        let mut place = Place::whole(self.path.display().to_string());
        if let Unreadable::NotText { line, column, .. } = self.why {
            (place.line, place.column) = (line, column);
        }
        Problem::error(&place, self.why.to_string())
    }
}

/// Files of a folder that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.lines())]
pub struct Unread(Vec<SourceError>);

impl Unread {
    fn lines(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    /// As findings.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.0.iter().map(SourceError::problem)
    }
}

/// A source: its name as it is shown, and its text.
pub type Source = (String, String);

/// Sources as the store keeps them.
///
/// # Errors
/// [`PackError`], when they are too much.
pub fn pack(sources: &[Source]) -> Result<String, PackError> {
    let files = sources.iter().cloned();
    let files = files.map(|(path, text)| curfew_control::Source { path, text });
    curfew_control::pack(&files.collect::<Vec<_>>())
}

/// The sources of one path.
#[derive(Debug, Default)]
pub struct Sources {
    /// Those that were read, by name.
    pub read: Vec<Source>,
    /// Files of a folder that could not be.
    pub unread: Vec<SourceError>,
}

impl Sources {
    /// All of them, where none is missing.
    ///
    /// # Errors
    /// Those that could not be read.
    pub fn whole(self) -> Result<Vec<Source>, Unread> {
        if self.unread.is_empty() {
            Ok(self.read)
        } else {
            Err(Unread(self.unread))
        }
    }

    fn len(&self) -> usize {
        self.read.len() + self.unread.len()
    }

    /// Whether a second read came to the same.
    fn is_as(&self, again: &Self) -> bool {
        let (before, after) = (self.unread.iter(), again.unread.iter());
        let same = before
            .map(|error| &error.path)
            .eq(after.map(|error| &error.path));
        same && self.read == again.read
    }
}

/// Reads a file, or the `.yaml`, `.yml` and `.json` files of a folder and its folders in the order of their names.
/// A folder is taken when two reads agree; a file of it that cannot be read keeps the others from nothing.
///
/// # Errors
/// [`SourceError`]: what, where, and what to do.
pub fn read(path: &Path) -> Result<Sources, SourceError> {
    if !metadata(path)?.is_dir() {
        return Ok(Sources {
            read: vec![read_file(path)?],
            unread: Vec::new(),
        });
    }
    let mut before = read_folder(path)?;
    for _ in 0..MAX_READS {
        let again = read_folder(path)?;
        if before.is_as(&again) {
            return match again.len() {
                0 => Err(Unreadable::Empty.at(path)),
                _ => Ok(again),
            };
        }
        before = again;
    }
    Err(Unreadable::Unsteady.at(path))
}

fn read_folder(folder: &Path) -> Result<Sources, SourceError> {
    let mut listing = Listing::default();
    listing.enter(folder, &metadata(folder)?)?;
    if listing.is_full() {
        return Err(Unreadable::TooMany.at(folder));
    }
    listing.files.sort();
    let mut sources = Sources {
        read: Vec::new(),
        unread: listing.unread,
    };
    for file in &listing.files {
        match read_file(file) {
            Ok(source) => sources.read.push(source),
            Err(error) => sources.unread.push(error),
        }
    }
    sources.unread.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

/// What a folder holds.
#[derive(Default)]
struct Listing {
    files: Vec<PathBuf>,
    folders: usize,
    unread: Vec<SourceError>,
    /// The folders that are being listed, each in the one before, by device and number.
    within: Vec<(u64, u64)>,
}

impl Listing {
    /// Names that start with a dot are left out: mounted volumes keep their older versions there, and editors what is not
    /// saved yet.
    fn list(&mut self, folder: &Path) -> Result<(), SourceError> {
        let io = Unreadable::of(folder);
        for entry in fs::read_dir(folder).map_err(&io)? {
            let path = entry.map_err(&io)?.path();
            let name = path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let ending = path.extension().unwrap_or_default();
            let is_policy = ["yaml", "yml", "json"]
                .iter()
                .any(|known| ending.eq_ignore_ascii_case(known));
            match metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    if let Err(error) = self.enter(&path, &metadata) {
                        self.unread.push(error);
                    }
                }
                Ok(_) if is_policy => self.files.push(path),
                Ok(_) => {}
                Err(error) => self.unread.push(error),
            }
            if self.is_full() {
                return Err(Unreadable::TooMany.at(folder));
            }
        }
        Ok(())
    }

    fn enter(&mut self, folder: &Path, metadata: &fs::Metadata) -> Result<(), SourceError> {
        let this = (metadata.dev(), metadata.ino());
        if self.within.contains(&this) {
            return Err(Unreadable::Circular.at(folder));
        }
        if self.within.len() > DEPTH {
            return Err(Unreadable::TooDeep.at(folder));
        }
        self.folders += 1;
        self.within.push(this);
        let listed = self.list(folder);
        self.within.pop();
        listed
    }

    fn is_full(&self) -> bool {
        self.files.len() + self.folders + self.unread.len() > MAX_FILES
    }
}

fn metadata(path: &Path) -> Result<fs::Metadata, SourceError> {
    fs::metadata(path).map_err(Unreadable::of(path))
}

/// Reads one file.
///
/// # Errors
/// [`SourceError`]: what, where, and what to do.
pub fn read_file(path: &Path) -> Result<Source, SourceError> {
    let io = Unreadable::of(path);
    let regular = |metadata: &fs::Metadata| match metadata.is_file() || metadata.is_dir() {
        true => Ok(()),
        false => Err(Unreadable::NotAFile.at(path)),
    };
    // Before it is opened, which can do something to a device, and then what was opened. No open waits for a writer.
    regular(&metadata(path)?)?;
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(&io)?;
    regular(&file.metadata().map_err(&io)?)?;
    let mut bytes = Vec::new();
    // Not by the length that the system tells: some files have none, and no end.
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Unreadable::TooLarge.at(path));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        Unreadable::text_ends(error.as_bytes(), valid).at(path)
    })?;
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
            .whole()
            .unwrap()
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(texts, ["2", "1"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_err_and(|error| error.is_empty()));
        let none = read(&folder.path().join("none")).unwrap_err();
        assert!(matches!(none.why, Unreadable::Io(_)), "{none}");
        let path = folder.path().join("x.yaml");
        fs::write(&path, [0xff]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error.why, Unreadable::NotText { .. }), "{error}");
        fs::write(&path, b"a: 1\n\xc3\xa9: \xe9\n").unwrap();
        let text = read(&path).unwrap_err().problem().to_string();
        let place = format!("{}:2:4: error: is not UTF-8 text", path.display());
        assert!(text.starts_with(&place) && text.contains("0xe9"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_read_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), [0xff]).unwrap();
        fs::write(folder.path().join("b.yaml"), "1").unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("c.yaml")).unwrap();
        let sources = read(folder.path()).unwrap();
        assert_eq!(sources.read.len(), 1);
        let names = sources.unread.iter();
        let unread: Vec<_> = names.filter_map(|error| error.path.file_name()).collect();
        assert_eq!(unread, ["a.yaml", "c.yaml"]);
        assert!(sources.whole().is_err());
    }

    #[test]
    fn links_that_lead_back_and_folders_that_are_too_deep_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join(["d"; DEPTH + 1].join("/"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("x.yaml"), "1").unwrap();
        fs::write(deep.with_file_name("X.YAML"), "2").unwrap();
        for link in ["a", "b", "c"] {
            std::os::unix::fs::symlink(".", folder.path().join(link)).unwrap();
        }
        let sources = read(folder.path()).unwrap();
        assert_eq!(sources.read.len(), 1);
        let is = |why: &Unreadable| {
            let all = sources.unread.iter();
            let same = |error: &&SourceError| error.why.to_string() == why.to_string();
            all.filter(same).count()
        };
        assert_eq!(
            (is(&Unreadable::Circular), is(&Unreadable::TooDeep)),
            (3, 1)
        );
    }
}
