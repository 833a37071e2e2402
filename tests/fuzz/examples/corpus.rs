//! Turns a directory of inputs, which libFuzzer works with, into a corpus file, and back.
//!
//! - `corpus pack DIR FILE [LIMIT]` keeps inputs of at most LIMIT bytes.
//! - `corpus unpack FILE DIR` writes the inputs of a corpus file.
//! - `corpus generate COUNT DIR` writes inputs from a fixed seed.

use std::fs;
use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pack", dir, file] => pack(dir, file, usize::MAX),
        ["pack", dir, file, limit] => pack(dir, file, limit.parse().expect("LIMIT is a number")),
        ["unpack", file, dir] => {
            let text = fs::read_to_string(file).expect(file);
            write(dir, "corpus", gmux_fuzz::parse_corpus(&text).into_iter());
        }
        ["generate", count, dir] => {
            write(
                dir,
                "generated",
                (0..count.parse().expect("COUNT is a number")).map(gmux_fuzz::generate),
            );
        }
        _ => {
            eprintln!("usage: corpus pack DIR FILE [LIMIT] | unpack FILE DIR | generate COUNT DIR");
            std::process::exit(2);
        }
    }
}

fn pack(dir: &str, file: &str, limit: usize) {
    let mut inputs: Vec<Vec<u8>> = fs::read_dir(dir)
        .expect(dir)
        .map(|entry| fs::read(entry.expect(dir).path()).expect(dir))
        .filter(|input| !input.is_empty() && input.len() <= limit)
        .collect();
    inputs.sort_by_key(|input| (input.len(), input.clone()));
    inputs.dedup();
    let hex =
        |input: &Vec<u8>| input.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    fs::write(file, inputs.iter().map(hex).collect::<String>()).expect(file);
    println!("{} inputs, {} bytes", inputs.len(), inputs.iter().map(Vec::len).sum::<usize>());
}

fn write(dir: &str, name: &str, inputs: impl Iterator<Item = Vec<u8>>) {
    fs::create_dir_all(dir).expect(dir);
    for (n, input) in inputs.enumerate() {
        fs::write(Path::new(dir).join(format!("{name}-{n}")), input).expect(dir);
    }
}
