"""One thin script per DVC stage: parameters in, one or two library calls, the gate, files out."""
