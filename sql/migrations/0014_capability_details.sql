alter table worker_capabilities
  add column alignment_method text,
  add column streaming boolean not null default false,
  add column max_audio_seconds double precision check (max_audio_seconds > 0),
  add column memory_bytes bigint not null default 0 check (memory_bytes >= 0),
  add column execution_provider text not null default '';

comment on column worker_capabilities.alignment_method is 'How it times words: attention, tdt, rnnt, ctc, phoneme_wav2vec; null when it does not.';
comment on column worker_capabilities.streaming is 'It gives results while audio still arrives.';
comment on column worker_capabilities.max_audio_seconds is 'Longest audio of one task in seconds; null when only the general limit holds.';
comment on column worker_capabilities.memory_bytes is 'Memory its weights take when loaded; 0 when not known.';
comment on column worker_capabilities.execution_provider is 'The runtime''s execution provider that really runs it, for example CPUExecutionProvider; empty for stages without a model.';
