"""Words, frames and number sentences of the recall text; all of them written for this project.

Key words come in two disjoint halves: training draws from the first, held-out questions from
the second, so that a right answer cannot rest on having met the word.
"""

ADJECTIVES = """amber brisk calm dusty eager faint gentle hollow icy jolly keen lively mellow
narrow odd plain quick rough sandy tidy upper vivid wide yearly airy blunt crisp damp early
fluffy grand humble idle jagged kind level modest neat opaque proud ragged stout tart uneven
vast wavy able bitter clever drowsy exact fierce glossy harsh inner joint loose misty noble
outer patient royal silent tame urban velvet wooden zesty ample bold candid dense even frosty
gloomy hasty ideal knotty lunar mild nimble oval pale quaint rustic sturdy thorny usual weary
woolly crimson silver distant famous hidden lonely muddy polite rapid shiny tender tiny""".split()

NOUNS = """anchor basket candle desert engine forest guitar hammer island jacket kettle ladder
mirror needle orchard pencil quarry ribbon saddle temple umbrella valley window yarn acorn
bucket canyon drawer eagle feather glacier harbor insect jungle kitten lantern marble notebook
oyster parcel quilt rocket shovel ticket urchin violin walnut zebra apron beacon cradle donkey
elbow fiddle goblet helmet inkwell jewel kayak locket magnet nutmeg otter pillow raven sparrow
tunnel vessel wagon yogurt arrow barrel cactus dagger easel falcon garlic hinge ivory jasmine
kernel lemon meadow nozzle onion pebble quiver rudder spoon thimble turnip vinegar whistle
chimney compass curtain dolphin gravel lobster mammoth parsnip pigeon""".split()

NOISE_LINE = ("The grass is green. The sky is blue. The sun is yellow. Here we go. "
              "There and back again.")

# What a plain fact may be about: "The gate code of K is V."
ATTRIBUTES = ["gate code", "port", "badge number", "locker number", "extension", "room",
              "order number", "account", "ticket number", "serial number", "seat", "pin"]

# Sentences with numbers that nobody asks about; {n} is a number, {w} a noun, {a} an adjective.
NUMBER_SENTENCES = [
    "Route {n} leaves at {n}.", "The {w} counts {n} steps.", "House {n} is {a}.",
    "The bill came to {n} for the {w}.", "In {n} the {a} {w} was sold.",
    "About {n} people saw it.", "Page {n} shows a {a} {w}.", "It was {n} miles to the {w}.",
    "The {w} weighs {n} grams.", "Call {n} about the {a} {w}.", "Lot {n} went for {n}.",
    "He owed {n} since {n}.", "The number of the {w} was {n}.", "Version {n} is {a}.",
    "Item {n}: one {a} {w}.", "There were {n} of them in {n}.", "The total is {n}.",
    "Flight {n} is late by {n} minutes.", "The {w} is {n}.", "Size: {n}.",
]
