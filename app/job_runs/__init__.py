"""Records of jobs: kept, listed, and streamed while they change."""
