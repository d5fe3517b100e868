create table measures (
  measure text not null check (measure <> ''),
  labels  jsonb not null check (jsonb_typeof(labels) = 'object'),
  bound   double precision not null,
  n       bigint not null check (n >= 0),
  total   double precision not null,
  primary key (measure, labels, bound)
);

comment on table measures is 'What all workers together have measured since the beginning: the buckets of histograms, and counters. Workers add what they have seen with their heartbeats; /metrics reads it.';
comment on column measures.measure is 'What is measured, as /metrics calls it, for example engine_queue_wait_seconds.';
comment on column measures.labels is 'Of what: stage, status, model.';
comment on column measures.bound is 'Largest value of the bucket; Infinity for the last, and for counters.';
comment on column measures.n is 'Values in the bucket.';
comment on column measures.total is 'Their sum.';
