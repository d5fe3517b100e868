create table transcripts (
  job_id     uuid primary key references jobs on delete cascade,
  body       jsonb not null,
  text       text not null,
  language   text,
  -- A tsvector holds a megabyte at most; this much text always fits, in any script.
  search     tsvector generated always as (to_tsvector('simple', left(text, 200000))) stored,
  created_at timestamptz not null
);

create index transcripts_search on transcripts using gin (search);

comment on table transcripts is 'What jobs give their users.';
comment on column transcripts.job_id is 'The job.';
comment on column transcripts.body is 'The whole transcript, as in the public contract.';
comment on column transcripts.text is 'All the text.';
comment on column transcripts.language is 'Language of the text.';
comment on column transcripts.search is 'Words of the first 200,000 characters, for search_transcripts().';
comment on column transcripts.created_at is 'When it was stored.';
