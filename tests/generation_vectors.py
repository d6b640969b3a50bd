"""Texts with references, made for the tests, and what the reference implementations say about them.

NIST: the scorer of the E2E challenge (`pymteval.py`, "compatible with mteval-v13a"), tokenizer included. ROUGE-L and
CIDEr: pycocoevalcap 1.2, once on the words of Stanford's Penn Treebank tokenizer (Java), once on ours.
"""

HYPOTHESES = [
    "The Golden Lion is a cheap pub near the river, and it isn't family-friendly.",
    "Harbour Lights serves French food for £20.50 in the city centre.",
    "Located by the Old Mill, Ocean Bar has a customer rating of 3 out of 5.",
    "There is a coffee shop called Morning Star; it's children friendly!",
    "Professor J. Smith works at St. Mary's College (founded in 1873) in Leeds.",
    "The runway 14/32 of Norton Airport is 2,702.5 metres long and the airport's name is Norton.",
    "A cheap cheap cheap pub is a pub that is cheap.",
    "Nothing here has anything to do with its reference at all.",
]
REFERENCES = [
    [
        "The Golden Lion, a pub near the river, is cheap but it isn't family-friendly.",
        "Near the river there is a cheap pub, The Golden Lion. It is not family-friendly.",
        "The Golden Lion is cheap.",
    ],
    ["In the city centre, Harbour Lights serves French food for £20.50."],
    [
        "Ocean Bar, by the Old Mill, has a customer rating of 3 out of 5.",
        "Ocean Bar is by the Old Mill; customers rate it 3 out of 5.",
    ],
    ["Morning Star is a children-friendly coffee shop.", "It's a coffee shop called Morning Star: bring the kids!"],
    ["J. Smith is a professor at St. Mary's College, which was founded in 1873 in Leeds."],
    ["Norton Airport's runway 14/32 has a length of 2,702.5 metres.", "Runway 14/32 at Norton is 2,702.5 m long."],
    ["The pub is cheap.", "It is a cheap pub.", "A pub that is cheap."],
    ["Quite another sentence stands in this place."],
]

NIST = 5.051850566823298
CIDER, ROUGE_L = 3.466742778467819, 0.6080179631776231  # on either kind of words
# Stanford's PTBTokenizer -preserveLines -lowerCase, without the scorer's list of punctuation (there "£" becomes "#").
TREEBANK = {
    HYPOTHESES[0]: "the golden lion is a cheap pub near the river and it is n't family-friendly",
    HYPOTHESES[3]: "there is a coffee shop called morning star it 's children friendly",
    HYPOTHESES[4]: "professor j. smith works at st. mary 's college -lrb- founded in 1873 -rrb- in leeds",
    HYPOTHESES[5]: "the runway 14/32 of norton airport is 2,702.5 metres long and the airport 's name is norton",
}
