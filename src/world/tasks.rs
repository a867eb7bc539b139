//! The task kinds: seven clusters of two, each with five templates.
//!
//! What a row says comes from `makers`; splits, option order and the OPTIONS block from `rows`.

use super::Draw;
use super::makers::*;

/// A way to put a row into words: `{slot}` is replaced by the row's text. `labels` are the answers in this wording of a task with
/// fixed labels, in the order of its classes; empty where the row brings its own options.
pub struct Template {
    /// The wording.
    pub pattern: &'static str,
    /// The label words, or none.
    pub labels: &'static [&'static str],
}

/// A kind of task.
pub struct Task {
    /// Its name, unique.
    pub name: &'static str,
    /// The cluster it belongs to: tasks that ask for one skill, held out together.
    pub cluster: &'static str,
    /// How many options a prompt has.
    pub choices: usize,
    /// Its wordings.
    pub templates: [Template; 5],
    /// Draws a row whose right option is number `class` before shuffling.
    pub(super) make: fn(&mut Draw, class: usize) -> Row,
}

const fn own(pattern: &'static str) -> Template {
    Template { pattern, labels: &[] }
}

const fn fixed(pattern: &'static str, labels: &'static [&'static str]) -> Template {
    Template { pattern, labels }
}

const YES_NO: &[&str] = &["yes", "no"];

/// All task kinds; tasks of one cluster stand together.
pub fn tasks() -> &'static [Task] {
    &TASKS
}

static TASKS: [Task; 14] = [
    Task {
        name: "review",
        cluster: "sentiment",
        choices: 2,
        templates: [
            fixed("{text}\nIs this review positive or negative?", &["positive", "negative"]),
            fixed(
                "Read what someone wrote and judge it.\n{text}\nThe verdict on the {item} is",
                &["good", "bad"],
            ),
            fixed("{text}\nDid the person who wrote this like the {item}?", YES_NO),
            fixed("What sort of opinion does this writer hold?\n{text}", &["positive", "negative"]),
            fixed(
                "Here is the view of a guest: {text}\nWould you call that praise or blame?",
                &["praise", "blame"],
            ),
        ],
        make: review,
    },
    Task {
        name: "feeling",
        cluster: "sentiment",
        choices: 2,
        templates: [
            fixed("{text}\nHow do you think {n} feels after that?", &["happy", "sad"]),
            fixed("{text}\nPick the mood that suits {n}.", &["glad", "upset"]),
            fixed("Judge what took place.\n{text}\nFor {n} the news is", &["good", "bad"]),
            fixed("{text}\nIs {n} likely to be cheerful tonight?", YES_NO),
            fixed("Put yourself in the place of {n}. {text}\nName your feeling.", &["happy", "sad"]),
        ],
        make: feeling,
    },
    Task {
        name: "animal_fact",
        cluster: "closed_book",
        choices: 3,
        templates: [
            own("Think of the {name}. What is its {topic}?"),
            own("Name the {topic} of the {name}."),
            own("From what you know about nature: which {topic} belongs to the {name}?"),
            own("Complete this line about the {name}: it {phrase}"),
            own("Here is a quiz about the {name}. {ask}"),
        ],
        make: animal_fact,
    },
    Task {
        name: "job_fact",
        cluster: "closed_book",
        choices: 3,
        templates: [
            own("Think of the {name}. What is the {topic} of this person?"),
            own("Name the {topic} of the {name}."),
            own("From what you know about trades: which {topic} belongs to the {name}?"),
            own("Complete this line about the {name}: this person {phrase}"),
            own("Here is a quiz about the {name}. {ask}"),
        ],
        make: job_fact,
    },
    Task {
        name: "effect",
        cluster: "commonsense",
        choices: 2,
        templates: [
            own("{text}\nWhat did the {thing} do next?"),
            own("{text}\nWrite the word that completes this: the {thing}"),
            own("Guess the result.\n{text}\nSoon after, the {thing}"),
            own("{text}\nSay in one word what happened to the {thing}."),
            own("Here is a cause: {text}\nIts effect on the {thing}, in one word:"),
        ],
        make: effect,
    },
    Task {
        name: "need",
        cluster: "commonsense",
        choices: 3,
        templates: [
            own("{text}\nWhat would be of most help to {n}?"),
            own("{text}\nWhat should you hand to {n}?"),
            own("Solve a small problem.\n{text}\nThe thing to look for is"),
            own("{text}\nWhat is missing here?"),
            own("Choose something useful for {n}. {text}"),
        ],
        make: need,
    },
    Task {
        name: "because",
        cluster: "coreference",
        choices: 2,
        templates: [
            own("{text}\nWho {reason}?"),
            own("{text}\nIn the sentence above, which person {reason}?"),
            own("Work out what the word \"{p}\" stands for.\n{text}"),
            own("{text}\nThe one who {reason} goes by the name of"),
            own("Read with care: {text}\nTell me who {reason}."),
        ],
        make: because,
    },
    Task {
        name: "fit",
        cluster: "coreference",
        choices: 2,
        templates: [
            own("{text}\nWhat is too {size}?"),
            own("{text}\nWhich of the two things is too {size}?"),
            own("Find what the word \"it\" points to.\n{text}"),
            own("{text}\nSo the thing that is too {size} must be the"),
            own("Explain the problem: {text}\nBy \"it\" the speaker means the"),
        ],
        make: fit,
    },
    Task {
        name: "size",
        cluster: "comparison",
        choices: 2,
        templates: [
            own("Which animal is {more}, {one} or {two}?"),
            own("Compare {one} with {two}. The {more} animal of the pair is the"),
            own("Think about size. Out of {one} and {two}, name the {more} one."),
            own("Put {one} next to {two}. Which of them looks {more}?"),
            own("In a picture book {one} meets {two}. Name the {more} of them."),
        ],
        make: size,
    },
    Task {
        name: "kind",
        cluster: "comparison",
        choices: 2,
        templates: [
            own("{text}\nWhich of the two {is}?"),
            own("{text}\nName the one that {is}."),
            own("{text}\nOne picture shows something that {is}. Which?"),
            own("Sort the things in this note. {text}\nThe thing that {is} must be the"),
            own("{text}\nFind the word for something that {is}."),
        ],
        make: kind,
    },
    Task {
        name: "where_is",
        cluster: "reading",
        choices: 2,
        templates: [
            own("{text}\nWhere is {n}?"),
            own("{text}\nIn which place would you meet {n}?"),
            own("Use the story to answer.\n{text}\nThe place where {n} is now is the"),
            own("{text}\nSomeone has to find {n}. Name the right place."),
            own("Read this and say where {n} is. {text}"),
        ],
        make: where_is,
    },
    Task {
        name: "who_has",
        cluster: "reading",
        choices: 2,
        templates: [
            own("{text}\nWho has the {thing}?"),
            own("{text}\nName the owner of the {thing}."),
            own("Use the story to answer.\n{text}\nThe person with the {thing} is"),
            own("{text}\nYou would like to see the {thing}. Whom do you ask?"),
            own("Read this and say who holds the {thing}. {text}"),
        ],
        make: who_has,
    },
    Task {
        name: "follows",
        cluster: "entailment",
        choices: 2,
        templates: [
            fixed("{text}\nDoes it follow that {claim}?", YES_NO),
            fixed(
                "Premise: {text}\nHypothesis: {Claim}.\nIs the hypothesis true or false?",
                &["true", "false"],
            ),
            fixed("{text}\nGiven this, may we say that {claim}?", YES_NO),
            fixed("{text}\nJudge this claim: {Claim}.", &["right", "wrong"]),
            fixed("If the first sentence holds, must the second one hold?\n{text}\n{Claim}.", YES_NO),
        ],
        make: follows,
    },
    Task {
        name: "same_meaning",
        cluster: "entailment",
        choices: 2,
        templates: [
            fixed("{one}\n{two}\nDo both sentences say the same thing?", YES_NO),
            fixed(
                "First: {one}\nSecond: {two}\nIs the meaning the same or different?",
                &["same", "different"],
            ),
            fixed("One witness says: {one}\nAnother says: {two}\nDo they agree?", YES_NO),
            fixed("Compare the meaning of these lines.\n{one}\n{two}", &["same", "different"]),
            fixed("{one}\nIs this a fair way to put it: {two}", YES_NO),
        ],
        make: same_meaning,
    },
];
