//! Power of GPUs with nothing resident, where it could not be learned yet: single facts with their source.

use joulebook_units::Milliwatts;

/// Word of the model's name, power in mW. Sources: `nvidia-smi` outputs of idle cards that their owners published:
/// H100 SXM 67–73 W in four captures, L40S 22–34 W in performance state P8.
const IDLE: [(&str, u64); 2] = [("H100", 69_000), ("L40S", 28_000)];

/// Idle power of a model; `None` where no fact is known.
pub fn idle(model: &str) -> Option<Milliwatts> {
    let is_word = |word: &str| model.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part == word);
    IDLE.iter().find(|(word, _)| is_word(word)).map(|(_, milliwatts)| Milliwatts(*milliwatts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_found_by_a_whole_word_of_its_name() {
        assert_eq!(idle("NVIDIA H100 80GB HBM3"), Some(Milliwatts(69_000)));
        assert_eq!(idle("NVIDIA L40S"), Some(Milliwatts(28_000)));
        assert_eq!(idle("NVIDIA L40"), None);
    }
}
