"""TRL's trainers with our mixins: cold start, GRPO, rewards, checkpoints."""
