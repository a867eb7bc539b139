//! The Porter stemmer, for ROUGE with stemming.
//!
//! Porter, "An algorithm for suffix stripping", Program 14(3), 1980; names of steps and conditions are the paper's.
//! rouge-score stems with NLTK, which departs from the paper: a table of irregular words, `ies` and `ied` of four
//! letters, `y` after a consonant, `bli`, `fulli` and `logi` in step 2, and a stem of a vowel and a consonant as *o.
//! So does this.

/// NLTK's irregular words and their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Which letters are consonants: not a vowel, nor a y after a consonant.
fn consonants(w: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(w.len());
    for c in w.bytes() {
        let after_consonant = flags.last().copied().unwrap_or(false);
        flags.push(match c {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !after_consonant,
            _ => true,
        });
    }
    flags
}

/// m: how often a vowel is followed by a consonant.
fn measure(w: &str) -> usize {
    consonants(w).windows(2).filter(|p| !p[0] && p[1]).count()
}

/// *v*: the stem has a vowel.
fn has_vowel(w: &str) -> bool {
    consonants(w).contains(&false)
}

/// *d: the stem ends in a double consonant.
fn ends_double(w: &str) -> bool {
    let b = w.as_bytes();
    b.len() >= 2 && b[b.len() - 1] == b[b.len() - 2] && consonants(w).last() == Some(&true)
}

/// *o: the stem ends consonant, vowel, consonant, the last not w, x or y; or is vowel, consonant.
fn ends_cvc(w: &str) -> bool {
    match consonants(w)[..] {
        [.., true, false, true] => !w.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

/// Applies the first rule whose suffix fits, if its stem meets `condition`.
fn first_rule(w: &str, rules: &[(&str, &str)], condition: impl Fn(&str) -> bool) -> String {
    for (suffix, replacement) in rules {
        if let Some(stem) = w.strip_suffix(suffix) {
            return if condition(stem) { format!("{stem}{replacement}") } else { w.into() };
        }
    }
    w.into()
}

fn step1a(w: &str) -> String {
    if let (4, Some(stem)) = (w.len(), w.strip_suffix("ies")) {
        return format!("{stem}ie");
    }
    first_rule(w, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], |_| true)
}

fn step1b(w: &str) -> String {
    if let Some(stem) = w.strip_suffix("ied") {
        return format!("{stem}{}", if w.len() == 4 { "ie" } else { "i" });
    }
    if w.ends_with("eed") {
        return first_rule(w, &[("eed", "ee")], |s| measure(s) > 0);
    }
    let stem = w.strip_suffix("ed").or_else(|| w.strip_suffix("ing"));
    let Some(stem) = stem.filter(|s| has_vowel(s)) else { return w.into() };
    if ["at", "bl", "iz"].iter().any(|s| stem.ends_with(s)) {
        return format!("{stem}e");
    }
    if ends_double(stem) {
        let keep = stem.ends_with(['l', 's', 'z']);
        return stem[..stem.len() - usize::from(!keep)].into();
    }
    if measure(stem) == 1 && ends_cvc(stem) { format!("{stem}e") } else { stem.into() }
}

fn step1c(w: &str) -> String {
    first_rule(w, &[("y", "i")], |s| s.len() > 1 && consonants(s).last() == Some(&true))
}

fn step2(w: &str) -> String {
    if let Some(stem) = w.strip_suffix("alli").filter(|s| measure(s) > 0) {
        return step2(&format!("{stem}al"));
    }
    if let Some(stem) = w.strip_suffix("logi") {
        return if measure(&w[..w.len() - 3]) > 0 { format!("{stem}log") } else { w.into() };
    }
    const RULES: [(&str, &str); 21] = [
        ("ational", "ate"),
        ("tional", "tion"),
        ("enci", "ence"),
        ("anci", "ance"),
        ("izer", "ize"),
        ("bli", "ble"),
        ("alli", "al"),
        ("entli", "ent"),
        ("eli", "e"),
        ("ousli", "ous"),
        ("ization", "ize"),
        ("ation", "ate"),
        ("ator", "ate"),
        ("alism", "al"),
        ("iveness", "ive"),
        ("fulness", "ful"),
        ("ousness", "ous"),
        ("aliti", "al"),
        ("iviti", "ive"),
        ("biliti", "ble"),
        ("fulli", "ful"),
    ];
    first_rule(w, &RULES, |s| measure(s) > 0)
}

fn step3(w: &str) -> String {
    const RULES: [(&str, &str); 7] = [
        ("icate", "ic"),
        ("ative", ""),
        ("alize", "al"),
        ("iciti", "ic"),
        ("ical", "ic"),
        ("ful", ""),
        ("ness", ""),
    ];
    first_rule(w, &RULES, |s| measure(s) > 0)
}

fn step4(w: &str) -> String {
    const SUFFIXES: [&str; 19] = [
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
        "ate", "iti", "ous", "ive", "ize",
    ];
    for suffix in SUFFIXES {
        if let Some(stem) = w.strip_suffix(suffix) {
            let fits = measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't']));
            return if fits { stem } else { w }.into();
        }
    }
    w.into()
}

fn step5(w: &str) -> String {
    let drops = |s: &str| measure(s) > 1 || (measure(s) == 1 && !ends_cvc(s));
    let w = w.strip_suffix('e').filter(|s| drops(s)).unwrap_or(w);
    match w.strip_suffix('l') {
        Some(stem) if stem.ends_with('l') && measure(stem) > 1 => stem.into(),
        _ => w.into(),
    }
}

/// The stem of `word`. Only lower-case ASCII is stemmed; anything else comes back as it is.
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(w, _)| *w == word) {
        return (*stem).into();
    }
    if word.len() <= 2 || !word.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        return word.into();
    }
    let steps = [step1a, step1b, step1c, step2, step3, step4, step5];
    steps.iter().fold(word.to_owned(), |w, step| step(&w))
}
