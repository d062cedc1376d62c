//! An agent of the rigs' fleet, as a process that may be killed.

fn main() -> anyhow::Result<()> {
    joulebook_tests::chaos::process::main()
}
