create table capabilities (
  id     int generated always as identity primary key,
  stage  text not null check (stage <> ''),
  engine text not null,
  model  text not null,
  unique (stage, engine, model)
);

comment on table capabilities is 'Every combination of stage, engine and model that a worker offered or a task needed, numbered so that tasks and their indexes stay narrow. Rows are never deleted.';
comment on column capabilities.id is 'The number used in tasks, claims and wake-ups.';
comment on column capabilities.stage is 'Stage of the pipeline: prepare, transcribe, align, diarize, merge.';
comment on column capabilities.engine is 'Engine, for example whisper; empty for stages without a model.';
comment on column capabilities.model is 'Model, for example whisper-nano; empty for stages without a model.';
