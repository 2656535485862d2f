"""The delivery pipeline: fetch, decode, run, decide, settle. One for every engine."""
