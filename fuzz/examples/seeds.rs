//! Writes each target's first inputs to `corpus/TARGET`, where `cargo fuzz run TARGET` begins. Run it in this folder's
//! workspace, with `--no-default-features`.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for seeds in kernlet_fuzz::seeds::all() {
        let folder = corpus.join(seeds.target);
        fs::create_dir_all(&folder)?;
        for (index, input) in seeds.inputs.iter().enumerate() {
            fs::write(folder.join(format!("seed-{index}")), input)?;
        }
        println!("{}: {} seeds", folder.display(), seeds.inputs.len());
    }
    Ok(())
}
