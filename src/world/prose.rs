//! Running text for pretraining: short documents in which the world's facts, events and words turn up in ordinary sentences.
//!
//! The mixture follows what a small model can learn: one fact a sentence, names rather than pronouns, choosing one of two or three
//! things that were named, what a thing is not, true and false statements. There is no instruction, no OPTIONS block, no run of six words of a
//! template, and no sentence of a dev or test row (tests compare). Lists with one word on a line are there because an answer starts a
//! line: the model must have seen words there, though not as the answer to a question. Likewise every word of the templates turns
//! up in other sentences: an untrained token carries no transfer.

use std::collections::HashSet;
use std::iter::repeat_n;
use std::sync::OnceLock;

use super::rows::{
    ASKED, DATASETS, DEALS, Split, deal, english, judgement, phrase_split, question, rows, say, sentences,
    velu,
};
use super::scenes::*;
use super::words::*;
use super::{Draw, a, bare, cap};

type Writer = fn(&mut Draw) -> String;

/// What documents are made of and how much of each.
const MIXTURE: [(usize, Writer); 32] = [
    // Who, where, what: read back from the text itself.
    (16, story),
    (8, scene),
    (9, retold),
    (3, repeats),
    (4, dialogue),
    (7, cards),
    (5, plans),
    (6, who_needs),
    (6, who_caused),
    (4, because),
    // Whether two things agree.
    (10, there_is),
    (8, work_is),
    (6, synonyms),
    (10, deals),
    (3, truth),
    // What there is to know: soon learnt.
    (4, animals),
    (4, jobs),
    (3, portraits),
    (4, review),
    (2, fortune),
    (2, event),
    (2, need),
    (2, fit),
    (2, velu_words),
    (3, velu_phrases),
    (5, kinds),
    (2, topics),
    (3, sizes),
    (2, questions),
    // Words in use.
    (4, choosing),
    (3, lists),
    (7, talk),
];

/// Sentences of dev and test rows, which no document may hold.
fn reserved() -> &'static HashSet<String> {
    static RESERVED: OnceLock<HashSet<String>> = OnceLock::new();
    RESERVED.get_or_init(|| {
        let of = |split| DATASETS.iter().filter_map(move |d| rows(d.0, split, MOST_ROWS)).flatten();
        let rows = of(Split::Test).chain(of(Split::Dev));
        rows.flat_map(|row| row.sentences).flat_map(|text| sentences(&text).collect::<Vec<_>>()).collect()
    })
}

/// A sentence, and its parts around a conjunction: "Ann won the race, so Ann was glad" says "Ann won the race", too.
fn clauses(sentence: &str) -> impl Iterator<Item = &str> {
    const BETWEEN: [&str; 6] = [", so ", " because ", ", and ", ", but ", " that ", ", "];
    std::iter::once(sentence).chain(BETWEEN.iter().flat_map(|b| sentence.split(*b)))
}

/// Dev or test rows of a dataset, at most.
pub(super) const MOST_ROWS: usize = 400;

/// Document `index`: 30 words or more, all from one writer of the mixture.
pub fn document(seed: u64, index: u64) -> String {
    let mut d = Draw::new(seed, &format!("prose/{index}"));
    let writers: Vec<Writer> = MIXTURE.iter().flat_map(|&(share, write)| repeat_n(write, share)).collect();
    let write = d.pick(&writers);
    let length = 30 + d.below(50);
    let (mut pieces, mut words): (Vec<String>, usize) = (Vec::new(), 0);
    while words < length {
        let piece = write(&mut d);
        if !pieces.contains(&piece) && !sentences(&piece).any(|s| clauses(&s).any(|c| reserved().contains(c)))
        {
            words += piece.split_whitespace().count();
            pieces.push(piece);
        }
    }
    // A piece of several lines stands in lines of its own.
    pieces.join(if pieces.iter().any(|p| p.contains('\n')) { "\n" } else { " " })
}

/// Text `index` of the primer, which stands in front of the documents: nothing but things to be looked up in what was just said. Lists of
/// words of which parts are said again; words that belong to words, nought to three words apart, asked for again and again; people in
/// places or with things, likewise. From documents alone a small model does not learn to look back within ten million tokens.
pub fn primer(seed: u64, index: u64) -> String {
    let mut d = Draw::new(seed, &format!("primer/{index}"));
    loop {
        let text = match d.below(5) {
            0 => parts(&mut d),
            1 => keyed(&mut d),
            _ => scene(&mut d),
        };
        if !sentences(&text).any(|s| reserved().contains(&s)) {
            return text;
        }
    }
}

/// Any word of a few tables.
fn words<const K: usize>(d: &mut Draw) -> [&'static str; K] {
    let jobs = JOBS.iter().map(|x| x.name);
    let all = PEOPLE.as_flattened().iter().chain(&PLACES).chain(&THINGS).chain(&COLOURS).copied().chain(jobs);
    d.distinct(&all.collect::<Vec<_>>())
}

fn parts(d: &mut Draw) -> String {
    let (n, list) = (6 + d.below(11), words::<16>(d));
    let (mut text, mut count) = (vec![list[..n].join(" ")], n);
    while count < 70 {
        let length = 2 + d.below(4);
        let from = d.below(n - length + 1);
        text.push(list[from..from + length].join(" "));
        count += length + 1;
    }
    format!("{}.", text.join(". "))
}

fn keyed(d: &mut Draw) -> String {
    let (n, keys, values) = (4 + d.below(5), words::<8>(d), words::<8>(d));
    let between = d.pick(&["", " is", " is the", " is in the"]);
    let asked = (0..16).map(|_| d.below(n)).collect::<Vec<_>>();
    let told = (0..n).chain(asked).map(|i| format!("{}{between} {}.", keys[i], values[i]));
    told.collect::<Vec<_>>().join(" ")
}

/// Two to four people in places or with things, and the same said again in other words and orders.
fn scene(d: &mut Draw) -> String {
    let (n, who, places) = (2 + d.below(3), people::<4>(d), d.coin());
    let (at, colours): ([&str; 4], [&str; 4]) = (d.distinct(&PLACES), d.distinct(&COLOURS));
    let things: [&str; 4] = d.distinct(&THINGS);
    let say = |form: usize, i: usize| {
        let (x, p, t) = (who[i], at[i], format!("{} {}", colours[i], things[i]));
        match (places, form) {
            (true, 0 | 1) => format!("{x} is in the {p}."),
            (true, 2) => format!("To meet {x}, go to the {p}."),
            (true, _) => format!("The one in the {p} is {x}."),
            (false, 0) => format!("{x} has {}.", a(&t)),
            (false, 1) => format!("{x} has the {t}."),
            (false, 2) => format!("The {t} is with {x}."),
            (false, _) => format!("It is {x} who has the {t}."),
        }
    };
    let asked = (0..9).map(|_| (d.below(4), d.below(n))).collect::<Vec<_>>();
    let told = (0..n).map(|i| (0, i)).chain(asked).map(|(form, i)| say(form, i));
    told.collect::<Vec<_>>().join(" ")
}

pub(super) fn people<const K: usize>(d: &mut Draw) -> [&'static str; K] {
    d.distinct(PEOPLE.as_flattened())
}

fn animals(d: &mut Draw) -> String {
    let x = d.pick(&ANIMALS);
    let (n, home, food, sound) = (x.name, x.home, x.food, x.sound);
    let says = !sound.is_empty();
    match d.below(11) {
        0 | 9 => format!("{} lives in the {home}.", cap(&a(n))),
        1 | 10 => format!("{} eats {food}.", cap(&a(n))),
        2 | 8 if says => format!("{} says {sound}.", cap(&a(n))),
        3 if says => {
            format!("A loud {sound} came from the {home}. It was the {n}, and the {n} wanted {food}.")
        }
        4 => format!("The {home} is the home of the {n}. Its food is {food}."),
        5 if says => format!("The sound of the {n} is {sound}. The {n} went back to the {home}."),
        6 => format!("The {n} ate some {food} and went home to the {home}."),
        7 => format!("In nature {} will live in the {home} and eat {food}.", a(n)),
        _ => format!("Look into the {home} and you may see the {n}. It likes {food}."),
    }
}

fn jobs(d: &mut Draw) -> String {
    let x = d.pick(&JOBS);
    let (n, work, place, tool) = (x.name, x.work, x.place, x.tool);
    let [who] = people(d);
    match d.below(12) {
        11 => format!("Usually the {n} {work}, but not on Sunday."),
        0 => format!("{} works in {} and {work}.", cap(&a(n)), a(place)),
        1 => format!("The tool of the {n} is the {tool}."),
        2 => format!("{who} is {}. {who} {work}. {who} has {}.", a(n), a(tool)),
        3 => format!("The one who {work} is the {n}. The {n} is in the {place}."),
        4 => format!("In the {place} works the {n}. The tool of the {n} is the {tool}."),
        5 => format!("Of all trades {who} likes that of the {n} most: such a person {work}."),
        6 => format!("{who} is {}. This is the daily task: {who} {work}. The {tool} is used for it.", a(n)),
        7 => format!("Every day the {n} goes to the {place}."),
        8 => format!("Every day the {n} {work}."),
        9 => format!("{} uses {}. {} {work}.", cap(&a(n)), a(tool), cap(&a(n))),
        _ => format!("Every day the {n} goes to the {place}, takes the {tool} and {work}."),
    }
}

fn portraits(d: &mut Draw) -> String {
    let (x, [who]) = (d.pick(&JOBS), people(d));
    let mut lines = [
        format!("{who} {}.", x.work),
        format!("{who} works in {}.", a(x.place)),
        format!("{who} uses {}.", a(x.tool)),
    ];
    d.shuffle(&mut lines);
    let text = lines[..1 + d.below(3)].join(" ");
    match d.below(3) {
        0 => format!("{text} So {who} is {}.", a(x.name)),
        _ => format!("{text} {who} must be the {}.", x.name),
    }
}

fn review(d: &mut Draw) -> String {
    let class = d.below(2);
    let [n, m] = people(d);
    let item = d.pick(&REVIEWED);
    let text = format!("\"{}\"", judgement(d, class, item).join(" "));
    let view = [["good", "positive", "praise"], ["bad", "negative", "blame"]][class];
    match d.below(9) {
        0 => format!("{n} said: {text} That is {}, so the view of {n} is {}.", view[2], view[1]),
        1 => {
            let (likes, reply) = [("liked", "Yes"), ("did not like", "No")][class];
            format!("{n} said: {text} {m} asked if {n} liked it. {reply}, {n} {likes} the {item}.")
        }
        2 => format!("{n} said: {text} For {n} it was a {} {item}.", view[0]),
        3 => format!("{n} wrote: {text} It was a {} review, full of {}.", view[1], view[2]),
        4 | 5 => format!("{n} wrote about the {item}: {text} The writer has a {} opinion.", view[1]),
        6 => {
            format!("\"How was the {item}, good or bad?\" asked {m}. {n} said: {text} So it was {}.", view[0])
        }
        7 => {
            format!("{n} came as a guest and tried the {item}. {n} said: {text} The verdict is {}.", view[0])
        }
        _ => format!(
            "{m} had to judge the words of {n}: {text} It was not {}, it was {}.",
            ["blame", "praise"][class],
            view[2]
        ),
    }
}

fn fortune(d: &mut Draw) -> String {
    let class = d.below(2);
    let [n, m] = people(d);
    let (what, mood) = (d.pick(&FORTUNES[class]), d.pick(&MOODS[class]));
    match d.below(9) {
        0 => format!("{n} {what}. {n} was {mood}."),
        1 => format!("{n} was {mood} because {n} {what}."),
        2 => format!("{n} {what}. It was a {} day for {n}.", ["good", "bad"][class]),
        3 => format!("{n} {what}. That was {} news, and {n} felt {mood}.", ["good", "bad"][class]),
        4 => format!("{n} {what}. After this the mood of {n} was {mood}."),
        5 => format!("{n} {what}, so {n} is likely to feel {mood} tonight. {m} knows that feeling."),
        6 => format!("How did {n} take it, happy or sad? {n} {what} and was {}.", ["happy", "sad"][class]),
        7 => format!("{n} {what}. Now {n} feels {mood}."),
        _ => format!("Was {n} cheerful? {}, because {n} {what}.", ["Yes", "No"][class]),
    }
}

fn event(d: &mut Draw) -> String {
    let [n] = people(d);
    let Event { cause, thing, effect, .. } = d.pick(&EVENTS);
    match d.below(5) {
        0 | 1 => format!("{n} {cause}. The {thing} {effect}."),
        2 => format!("The {thing} {effect} because {n} {cause}."),
        3 => format!("{n} {cause}, so the {thing} {effect}."),
        _ => format!("Why did it happen that the {thing} {effect}? {n} {cause}."),
    }
}

fn need(d: &mut Draw) -> String {
    let [n, m] = people(d);
    let (want, help) = d.pick(&NEEDS);
    match d.below(5) {
        0 | 1 => format!("{n} {want}. {n} needs {help}."),
        2 => format!("{n} {want}, so {m} brings {help}."),
        3 => format!("{n} looks for {help} because {n} {want}."),
        _ => format!("{n} {want}. With {help} all will be well, says {m}. The {} helps {n}.", bare(help)),
    }
}

fn because(d: &mut Draw) -> String {
    let (class, gender) = (d.below(2), d.below(2));
    let names = d.distinct::<_, 2>(&PEOPLE[gender]);
    let (does, reason) = d.pick(&BECAUSE[class]);
    let (does, who, p) = (does.replace("{b}", names[1]), names[class], ["she", "he"][gender]);
    let line = format!("{} {does} because {p} {reason}.", names[0]);
    match d.below(5) {
        0 => format!("{} {does} because {who} {reason}.", names[0]),
        1 | 2 => format!("{line} It was {who} who {reason}."),
        3 => format!("{line} Yes, {who} {reason}."),
        _ => format!("{} {does}. The reason is that {who} {reason}.", names[0]),
    }
}

fn fit(d: &mut Draw) -> String {
    let (verb, things, holes, sizes) = d.pick(&FITS);
    let class = d.below(2);
    let pair = [d.pick(things), d.pick(holes)];
    let (who, size) = (pair[class], sizes[class]);
    let line = format!("The {} {verb} the {} because", pair[0], pair[1]);
    match d.below(4) {
        0 => format!("{line} the {who} is too {size}."),
        1 | 2 => format!("{line} it is too {size}. It is the {who} that is too {size}."),
        _ => format!("{line} it is too {size}. Yes, the {who} is too {size}."),
    }
}

/// Two sentences, and whether they mean the same.
fn compared(d: &mut Draw, mut lines: [String; 2], same: bool) -> String {
    let [m] = people(d);
    d.shuffle(&mut lines);
    let [one, two] = lines;
    match (d.below(5), same) {
        (0..2, true) => format!("{one} {two} In meaning the two are the same."),
        (0..2, false) => format!("{one} {two} In meaning the two are different."),
        (2, true) => format!("{one} In other words, {two}"),
        (2, false) => format!("{one} It is not the same to say this: {two}"),
        (3, true) => format!("\"{one}\" And then: \"{two}\" {m} said the same thing twice."),
        (3, false) => format!("\"{one}\" And then: \"{two}\" {m} said two different things."),
        (_, true) => format!("{one} {two} Do both say one thing? Yes, they agree."),
        (_, false) => format!("{one} {two} Do both say one thing? No, they differ."),
    }
}

fn synonyms(d: &mut Draw) -> String {
    let (form, same) = (d.below(3), d.coin());
    let [mut x, y] = d.distinct::<_, 2>(SYNONYMS[form]);
    if d.coin() {
        x = (x.1, x.0);
    }
    let ([n], thing) = (people(d), d.pick(&THINGS));
    match d.below(6) {
        0 => format!("The word {} means the same as {}.", x.0, x.1),
        1 => format!("The word {} does not mean the same as {}. Its meaning is different.", x.0, y.0),
        _ => {
            let other = if same { x.1 } else { y.0 };
            compared(d, [x.0, other].map(|word| say(form, n, thing, word)), same)
        }
    }
}

/// A deal told from both ends, and told wrongly.
fn deals(d: &mut Draw) -> String {
    let ([n, m], thing, mut forms) = (people(d), d.pick(&THINGS), d.pick(&DEALS));
    let has = format!("Now {m} has the {thing}.");
    let side = d.below(2);
    forms.swap(0, side);
    let told =
        |form: &str, right: bool| if right { deal(form, n, m, thing) } else { deal(form, m, n, thing) };
    let first = told(forms[0], true);
    match d.below(6) {
        0 => format!("{first} {has}"),
        1..4 => {
            let mut said = [(1, true), (1, false), (0, false)];
            d.shuffle(&mut said);
            let parts = said.map(|(form, right)| {
                let verdict = if right { "the same" } else { "different" };
                format!("{first} {} In meaning the two are {verdict}.", told(forms[form], right))
            });
            parts[..2].join(" ")
        }
        _ => {
            let same = d.coin();
            compared(d, [first, told(forms[1], same)], same)
        }
    }
}

fn velu_words(d: &mut Draw) -> String {
    let (words, names) =
        if d.below(3) == 0 { (&VELU_COLOURS[..], &COLOURS[..]) } else { (&VELU_THINGS[..], &THINGS[..]) };
    let i = d.below(words.len());
    match d.below(4) {
        0 => format!("The Velu word {} means {}.", words[i], names[i]),
        1 => format!("In Velu {} is {}.", names[i], words[i]),
        2 => format!("In the language Velu they say {} for {}.", words[i], names[i]),
        _ => format!("Velu has the word {}. In English it is {}.", words[i], names[i]),
    }
}

fn velu_phrases(d: &mut Draw) -> String {
    let (colour, thing) = loop {
        let (colour, thing) = (d.below(COLOURS.len()), d.below(THINGS.len()));
        if phrase_split(colour, thing) == Split::Train {
            break (colour, thing);
        }
    };
    let ([n, m], v, e) = (people(d), velu(colour, thing), english(colour, thing));
    match d.below(6) {
        0 | 1 => format!("{} is Velu for {e}.", cap(&v)),
        2 | 3 => format!("To say {e} in Velu, say {v}."),
        4 => format!("\"{},\" said {n} in Velu. {m} knew: that is the {e}.", cap(&v)),
        _ => format!("{n} wanted the {e}. In Velu {n} asked for {v}."),
    }
}

/// Two things of different kinds, and which of them is of one.
fn kinds(d: &mut Draw) -> String {
    let two: [(&str, [&str; 6]); 2] = d.distinct(&KINDS);
    let items = two.map(|(_, members)| d.pick(&members));
    let ([n], i) = (people(d), d.below(2));
    let (kind, other) = (a(two[i].0), a(two[1 - i].0));
    let drew = format!("{n} drew {} and {}.", a(items[0]), a(items[1]));
    match d.below(6) {
        0 => format!("{} is {kind}. It is not {other}.", cap(&a(items[i]))),
        1 => format!("{drew} The {} is not {other}, it is {kind}.", items[i]),
        2 => format!("{} is {kind}.", cap(&a(items[i]))),
        3 => format!("{drew} Only one is {kind}: the {}.", items[i]),
        4 => format!("{drew} Only one is not {other}: the {}.", items[i]),
        _ => format!(
            "Here are {} and {}. Only one is not {other}: the {}.",
            a(items[0]),
            a(items[1]),
            items[i]
        ),
    }
}

fn truth(d: &mut Draw) -> String {
    let [n, m] = people(d);
    let right = d.coin();
    let (claim, fact) = if d.coin() {
        let i: [usize; 2] = d.places(ANIMALS.len());
        let lives = |home| format!("{} lives in the {home}", a(ANIMALS[i[0]].name));
        let (home, other) = (ANIMALS[i[0]].home, ANIMALS[i[1]].home);
        (lives(if right || home == other { home } else { other }), lives(home))
    } else {
        let two: [(&str, [&str; 6]); 2] = d.distinct(&KINDS);
        let (item, kind) = (d.pick(&two[0].1), if right { two[0].0 } else { two[1].0 });
        (format!("{} is {}", a(item), a(kind)), format!("{} is {}", a(item), a(two[0].0)))
    };
    match (d.below(3), claim == fact) {
        (0, true) => format!("It is true that {claim}."),
        (0, false) => format!("It is false that {claim}. {}.", cap(&fact)),
        (1, true) => format!("\"{},\" said {n}. \"That is right,\" said {m}.", cap(&claim)),
        (1, false) => format!("\"{},\" said {n}. \"That is wrong, {fact},\" said {m}.", cap(&claim)),
        (_, true) => format!("\"Is it so that {claim}?\" asked {n}. \"Yes, that is true,\" said {m}."),
        (_, false) => format!("\"Is it so that {claim}?\" asked {n}. \"No, that is false,\" said {m}."),
    }
}

/// From the member to its kind, in place: several questions about one thing.
fn there_is(d: &mut Draw) -> String {
    let kinds: [(&str, [&str; 6]); 3] = d.distinct(&KINDS);
    let (item, place) = (d.pick(&kinds[0].1), d.pick(&PLACES));
    let scene = format!("There is {} in the {place}.", a(item));
    let kind = a(kinds[0].0);
    match d.below(8) {
        0 => return format!("{scene} So there is {kind} in the {place}."),
        1 => {
            let other = a(kinds[1].0);
            return format!(
                "{scene} It is wrong to say that there is {other}. It is right to say that there is {kind}."
            );
        }
        _ => {}
    }
    let mut asked = vec![0, 0, 1 + d.below(2), 1 + d.below(2)];
    d.shuffle(&mut asked);
    asked.truncate(3);
    let answers = asked.into_iter().map(|k| {
        let reply = match (k, d.below(3)) {
            (0, 0) => format!("Yes, {} is {kind}", a(item)),
            (0, _) => "Yes".to_owned(),
            (_, 0) => format!("No, {} is {kind}", a(item)),
            _ => "No".to_owned(),
        };
        format!("Is there {} in the {place}? {reply}.", a(kinds[k].0))
    });
    let answers: Vec<String> = answers.collect();
    format!("{scene} {}", answers.join(" "))
}

/// From the job to the work: several questions about one person.
fn work_is(d: &mut Draw) -> String {
    let (jobs, [n]): ([usize; 3], _) = (d.places(JOBS.len()), people(d));
    let scene = format!("{n} is {}.", a(JOBS[jobs[0]].name));
    if d.below(6) == 0 {
        return format!("{scene} So {n} {}.", JOBS[jobs[0]].work);
    }
    let mut asked = vec![0, 0, 1, 2];
    d.shuffle(&mut asked);
    asked.truncate(3);
    let answers = asked.into_iter().map(|k| {
        let reply = ["Yes", "No"][usize::from(k > 0)];
        let more = if d.below(3) == 0 { format!(", {n} {}", JOBS[jobs[0]].work) } else { String::new() };
        format!("Is it so that {n} {}? {reply}{more}.", JOBS[jobs[k]].work)
    });
    let answers: Vec<String> = answers.collect();
    format!("{scene} {}", answers.join(" "))
}

pub(super) fn a_pair_by_size(d: &mut Draw) -> (&'static str, &'static str) {
    let small = d.below(ANIMALS.len() - SIZE_GAP);
    let big = small + SIZE_GAP + d.below(ANIMALS.len() - small - SIZE_GAP);
    (ANIMALS[small].name, ANIMALS[big].name)
}

fn sizes(d: &mut Draw) -> String {
    let (s, b) = a_pair_by_size(d);
    let mut pair = [s, b];
    d.shuffle(&mut pair);
    let met = format!("{} and {} met.", cap(&a(pair[0])), a(pair[1]));
    match d.below(5) {
        0 => format!("{} is bigger than {}.", cap(&a(b)), a(s)),
        1 => format!("{} is smaller than {}.", cap(&a(s)), a(b)),
        2 => format!("{met} The bigger of them was the {b}."),
        3 => format!("{met} The smaller of them was the {s}."),
        _ => format!("{met} The {b} is big, the {s} is small."),
    }
}

/// Questions and what they ask for.
fn questions(d: &mut Draw) -> String {
    let class = d.below(4);
    let (q, [n, m]) = (question(d, class), people(d));
    let asked = ASKED[class];
    match d.below(5) {
        0..2 => format!("\"{q}\" This asks for a {asked}."),
        2 => format!("\"{q}\" asked {n}. To answer this {m} had to name a {asked}."),
        3 => format!("\"{q}\" asked {n}. {m} wanted to know a {asked}, too."),
        _ => {
            let word =
                [d.pick(PEOPLE.as_flattened()), d.pick(&PLACES), d.pick(&THINGS), d.pick(&DAYS)][class];
            format!("{} names a {asked}.", cap(word))
        }
    }
}
