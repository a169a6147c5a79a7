/** What was asked of each segment and what came of it, as far as a take says so. */

/** @typedef {import("./types.js").Plan} Plan */
/** @typedef {import("./types.js").Song} Song */

/**
 * @typedef {object} Outcome of a segment
 * @property {boolean} same whether the plan still asks for what the take was asked for
 * @property {number | null} cosine
 * @property {string | null} verdict
 * @property {Map<string, number>} values by anchor, what was heard
 */

const ALIKE = 0.02; // standard deviations; numbers come rounded

/**
 * By segment of the plan; empty where the take was not heard yet.
 * @param {Plan} plan
 * @param {Song | undefined} take
 * @returns {Outcome[]}
 */
export function outcomes(plan, take) {
  const heard = take?.heard;
  if (!heard) return [];
  return plan.segments.map((segment, at) => {
    const found = heard.segments.find((each) => each.index === at);
    /** @type {Outcome} */
    const outcome = { same: false, cosine: null, verdict: null, values: new Map() };
    if (!found) return outcome;
    outcome.same = heard.anchors.every((anchor, column) => {
      const now = segment.activity[plan.anchors.indexOf(anchor)];
      const then = found.asked?.[column];
      return (
        now === undefined || then === null || then === undefined || Math.abs(now - then) < ALIKE
      );
    });
    outcome.cosine = found.cosine;
    outcome.verdict = found.verdict;
    heard.anchors.forEach((anchor, column) => {
      const value = found.heard?.[column];
      if (value !== null && value !== undefined) outcome.values.set(anchor, value);
    });
    return outcome;
  });
}

/**
 * Activity as a share of the scale that is drawn: 0 far below a typical thought, 1 far above it.
 * @param {number} activity
 */
export const share = (activity) => Math.min(1, Math.max(0, (activity + 1.5) / 3.5));
