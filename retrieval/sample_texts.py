"""Made-up texts such as people search their photos by. ANN search is tuned and measured with them."""

from __future__ import annotations

import numpy as np

PEOPLE = (
    "a man|a woman|a boy|a girl|a child|a baby|two people|three friends|an old man|a couple|a group of people|"
    "a crowd|a family|my grandmother|a player|a cyclist|a skier|a surfer|a climber|a musician|a dancer|a worker|"
    "a chef|a bride and groom|two children|a toddler|a runner|a fisherman|a soldier|students"
)
ANIMALS = (
    "a dog|a black dog|a brown and white dog|two dogs|a puppy|a cat|a kitten|a bird|an owl|a horse|a cow|sheep|"
    "a goat|a rabbit|a squirrel|a fox|a bear|a lion|an elephant|a giraffe|a zebra|a monkey|a duck|a swan|"
    "a parrot|a fish|a shark|a turtle|a snake|a frog|a butterfly|a bee|a spider"
)
THINGS = (
    "a red car|an old car|a truck|a bus|a train|a motorcycle|a bicycle|a sailing boat|a plane|a kite|a balloon|"
    "a ball|a guitar|a piano|a laptop|a phone|a camera|a clock|a lamp|a chair|a sofa|a bed|a table|a bottle|"
    "a cup of coffee|a glass of wine|a pizza|a birthday cake|a sandwich|a bowl of fruit|flowers|a rose|a tree|"
    "mushrooms|a bridge|a church|a castle|a lighthouse|a tent|a waterfall|a rainbow|the moon|fireworks|a sign|"
    "a map|a book|a painting|a statue|a yellow umbrella|a backpack|a hat|sunglasses|a blue dress|shoes|a receipt|"
    "a passport|a handwritten note"
)
DOING = (
    "running|jumping|sitting|sleeping|standing|walking|playing|eating|drinking|swimming|climbing|laughing|crying|"
    "reading|dancing|singing|cooking|riding a bike|riding a horse|playing football|playing the guitar|"
    "holding a ball|catching a frisbee|looking at the camera|taking a picture|blowing out candles|digging a hole|"
    "carrying a bag|waving"
)
PLACES = (
    "on a beach|in the snow|in the water|in the grass|in a park|in a forest|in the mountains|by a lake|"
    "on a street|in a city at night|on a bridge|in a kitchen|in a living room|at a table|on a couch|"
    "in a restaurant|in a shop|on a stage|in a stadium|at a station|at an airport|on a boat|in a garden|"
    "under a tree|at sunset|in the rain|in the fog|by a window|on a roof|in front of a house|in a classroom|"
    "in a museum"
)
ALONE = (
    "sunset|beach|mountains|snow|forest|city skyline|birthday party|wedding|christmas tree|barbecue|picnic|"
    "concert|football match|marathon|school play|hospital|construction site|market|harbour|desert|river|"
    "autumn leaves|garden|playground|swimming pool|screenshot|document|whiteboard|menu|black and white photo|"
    "selfie|close-up of a face|hands|aerial view|reflection in water|night sky|clouds|lightning|fire|ice"
)


def sample_texts(count: int) -> list[str]:
    """`count` different texts, from single words to sentences, always the same."""
    people, animals, things, doing, places, alone = (
        phrases.split("|") for phrases in (PEOPLE, ANIMALS, THINGS, DOING, PLACES, ALONE)
    )
    texts = [
        *alone,
        *things,
        *animals,
        *(f"{who} {what} {where}" for who in people + animals for what in doing for where in places),
        *(f"{what} {where}" for what in things for where in places),
        *(f"{who} and {what}" for who in people + animals for what in things),
        *(f"{who} {where} with {what}" for who in people for where in places for what in things),
    ]
    phrase_count = len(alone) + len(things) + len(animals)
    order = np.random.default_rng(0).permutation(len(texts)).tolist()
    # A tenth of them are single phrases, as many queries are; the rest are a random sample.
    short = [index for index in order if index < phrase_count][: count // 10]
    chosen = set(short)
    return [texts[index] for index in [*short, *(index for index in order if index not in chosen)][:count]]
