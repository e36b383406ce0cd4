"""The words over the tables of a generated README."""

HOW_TO_READ = """\
Generated from the result rows by `kvpress report`; edit nothing here. {pages} the same numbers
with charts, filters, every column and the command that reproduces each row, and {opens} from disk, offline.

- **score**: mean over sessions, 0 to 100; with several tasks the macro mean, every task counting
  the same. In brackets its 95 % interval: sessions are resampled, not turns, because turns share a
  context (10,000 resamples; BCa with fewer than 40 sessions in a task). A session asked at several depths is one
  session, scored by its mean over them: depths share its facts and filler.
- **\u0394 full**: the same sessions answered with the compressed cache minus with the full cache,
  in points, with its paired 95 % interval. **p**: sign-flip test over sessions, Holm-adjusted over
  the methods of the table. An asterisk marks p < 0.05.
- **verdict**: non-inferiority at a margin of 2 points. *not worse*: the one-sided 97.5 % lower bound of
  \u0394 (the lower end of its interval) is above \u22122. Otherwise *worse*: the interval lies wholly
  below 0; or *not shown*: it does not. The bound is never above
  \u2212(1 \u2212 0.025^(1/n)) / answers, its mean over tasks: as many of a task's n sessions as could go unseen lose
  one of their answers, so that few sessions never show *not worse* (with five answers each, 36 in a task do). The
  verdict is not adjusted for how many methods a table has.
- **detects**: the smallest true difference this many sessions would find (5 % level, power 80 %). A
  smaller \u0394 without an asterisk is not evidence of equality.
- **retained**: score over the score of the full cache on the same sessions, where that is at least 20.
  **flips**: answers that were right with the full cache and are wrong now, and the reverse; only for tasks
  whose answers are right or wrong.
- **gold log p**: mean log-probability (nats per token) of the gold answer when the model is made to say it
  from the cache that it answers from; its \u0394 is paired with the full cache like that of the score. It tells
  presses apart where none or all of them answer right.
- **first**, **later**: score on the first turn and on the turns after it. In multi-turn mode a
  press that fires after a prompt with the question in it has seen the first question and no other;
  in multi-request mode no question is seen. **turn effect**: (later - first) minus the same of the
  full cache, paired, with its 95 % interval: below zero, the method loses more on later turns. **later** and
  **turn effect** are means over the tasks that ask more than one question.
- **TTFT**, **press**, **ms/token**: mean times on one device; a dash where the runs of a line are from several.
  \u2021 marks a time that other programs disturbed, as the run itself measured: how long its threads waited for a
  core, what the hypervisor took, how evenly a fixed piece of work ran. It is on no front.
- **bytes/dense**: bytes really held (codes, scales, indices, positions, masks, window) over those
  of the dense cache. \u25c6 marks the Pareto front: nothing with as few bytes scores higher. In **ms/token** it marks
  the front of quality against time: nothing that fast on that device scores higher.
- **batch in 1 GiB**: caches of such sessions that fit 1 GiB, from the most that one of them held with
  an answer; the page takes any amount. Weights, and the prompt that is being read, come on top.
- Rows are ordered by bytes, from more to fewer: compare neighbours, which cost about the same
  memory.
- A press **at** an amount was solved for it: its free parameter is the largest that the ledger
  allows, for each task's length. **Equal bytes** puts such presses side by side, best in bold.
- Answers scored by the released scorers of SCBench stand in tables of their own (*reference scorer*), and so do
  rows that were *imported*: those claim a score, and neither bytes nor times.
"""

FORCED_TOLD = """\
- **Forced texts** (continuation): a prefix is read and compressed, the tokens that follow are forced. **KL** is the
  divergence of their predictions from those of the full cache, in nats a token, with its 95 % interval over passages;
  **KL 2-16** is that of the tokens at this distance from the cut. The first token is predicted by the prefix itself,
  before a press that fires at its end has taken anything away. **\u0394 NLL** is the change of the text's negative
  log-likelihood, paired by passage. **equal tokens**: the share of tokens at which the most likely one is the full
  cache's, which is the score of these rows.
"""
