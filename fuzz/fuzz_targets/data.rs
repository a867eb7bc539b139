//! Training data: any bytes in any kind of file are rows or an error that names the file; templates over them too.
//! The first byte chooses the kind of file.
#![no_main]

use flanrt::data::files;
use flanrt::text::Template;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

fuzz_target!(|bytes: &[u8]| {
    thread_local! {
        static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let name = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"][usize::from(*kind) % 5];
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let rows = match files::open(&path) {
            Ok(rows) => rows,
            Err(e) => return assert!(e.message.contains(name)),
        };
        for row in rows.take(100) {
            match row {
                Ok(row) => {
                    let text = row.fields.values().find_map(|v| v.as_str()).unwrap_or_default();
                    if let Ok(template) = Template::compile(text) {
                        let _ = template.render(&row.fields);
                    }
                }
                Err(e) => assert!(e.message.contains(name)),
            }
        }
    });
});
