//! Every target over its seeds and the inputs that are kept, as an ordinary test.

use std::fs;
use std::path::Path;

#[test]
fn seeds_and_kept_inputs_hold() {
    for (name, target) in kms_fuzz::TARGETS {
        let mut inputs = 0;
        for directory in ["seeds", "corpus"] {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).join(name);
            for entry in
                fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            {
                let path = entry.unwrap().path();
                eprintln!("{}", path.display());
                target(&fs::read(path).unwrap());
                inputs += 1;
            }
        }
        assert!(inputs > 0, "{name} has no inputs");
    }
}
