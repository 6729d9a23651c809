"""Gates: what must hold of each stage's tables, judged before the stage hands them on."""
