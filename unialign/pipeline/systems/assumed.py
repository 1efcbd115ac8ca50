"""The data that costs are counted with: of no dataset in particular, and the same for all systems."""

CLASSES, PROMPTS, ENTITIES = 400, 16, 548
TEXT_WIDTH, SENTENCE_WIDTH, TEXT_TOKENS = 512, 768, 16
POSE_TOKENS, POSE_WIDTH = 25, 256

# As `unialign models --json` says it.
ASSUMED = {
    "classes": CLASSES,
    "prompts": PROMPTS,
    "text_width": TEXT_WIDTH,
    "sentence_width": SENTENCE_WIDTH,
    "entities": ENTITIES,
    "tokens_of_a_text": TEXT_TOKENS,
    "pose_tokens": POSE_TOKENS,
    "pose_width": POSE_WIDTH,
}
