/**
 * What the server says, as the contract of its API has it (/docs). Types alone.
 *
 * @typedef {object} Option
 * @property {string} name
 * @property {string} label
 * @property {"text" | "number" | "integer" | "boolean" | "file"} kind
 * @property {unknown} default null: the model's own
 * @property {number | null} [low]
 * @property {number | null} [high]
 * @property {string} unit
 * @property {string[]} choices
 * @property {boolean} several a list is taken, too
 * @property {boolean} planning part of a plan: a change of it asks for a new one
 * @property {boolean} can_be_off
 * @property {boolean} by_segment what a single segment of a plan can be asked for, too
 * @property {string} help
 *
 * @typedef {object} Model
 * @property {string} name
 * @property {string} title
 * @property {boolean} loaded whether it is in memory
 * @property {number | null} sample_rate
 * @property {string[]} capabilities
 * @property {{name: string}[]} adapters
 * @property {string[]} edits
 * @property {Option[]} options
 *
 * @typedef {object} Studio
 * @property {string} default
 * @property {boolean} library
 * @property {number} max_upload_bytes
 * @property {string[]} export_formats
 * @property {Model[]} models
 *
 * @typedef {object} Source exactly one of words, upload, song, library, plan
 * @property {string} [words]
 * @property {string} [upload]
 * @property {string} [song]
 * @property {string} [library]
 * @property {string} [plan]
 * @property {number[]} [segments]
 * @property {number} [start]
 *
 * @typedef {{name: string, weight: number}} Adapter
 *
 * @typedef {object} Origin
 * @property {"drawn" | "words" | "audio" | "morph" | "unknown"} kind
 * @property {string | null} words
 * @property {string | null} name
 * @property {number | null} start
 *
 * @typedef {object} Segment
 * @property {number} index
 * @property {number} start
 * @property {number} end
 * @property {string} label
 * @property {string | null} words
 * @property {Origin} origin
 * @property {boolean} locked
 * @property {Record<string, unknown>} controls options that are its own
 * @property {number[]} activity by anchor
 *
 * @typedef {object} Plan
 * @property {string} id
 * @property {number} version
 * @property {boolean} can_undo
 * @property {boolean} can_redo
 * @property {boolean} preview
 * @property {string} model
 * @property {Adapter[]} adapters
 * @property {string | null} prompt
 * @property {number} seed
 * @property {number} duration
 * @property {number} segment_seconds
 * @property {string | null} key
 * @property {number | null} bpm
 * @property {Record<string, unknown>} options
 * @property {{start: number, end: number, chord: string}[]} chords
 * @property {number[]} bars
 * @property {number[]} beats
 * @property {{letter: string, start: number, end: number}[]} sections
 * @property {string[]} anchors
 * @property {Segment[]} segments
 * @property {number[]} changed
 * @property {{edit: string} | null} edit what made it of the version before
 * @property {string[]} warnings
 *
 * @typedef {{id: string, prompt: string | null, duration: number, updated: string}} PlanLine
 *
 * @typedef {object} HeardSegment
 * @property {number} index
 * @property {number | null} cosine
 * @property {string | null} verdict
 * @property {(number | null)[] | null} asked
 * @property {(number | null)[] | null} heard
 *
 * @typedef {object} Heard
 * @property {string[]} anchors
 * @property {number | null} mean_cosine
 * @property {number | null} tempo
 * @property {string | null} key
 * @property {HeardSegment[]} segments
 *
 * @typedef {object} Progress
 * @property {string} stage
 * @property {number} fraction
 * @property {number | null} seconds_left
 *
 * @typedef {object} Song
 * @property {string} id
 * @property {number} number
 * @property {"queued" | "running" | "done" | "failed" | "cancelled"} status
 * @property {number | null} position
 * @property {string} created
 * @property {string} title
 * @property {string} group
 * @property {string} model
 * @property {Adapter[]} adapters
 * @property {string | null} prompt
 * @property {number} seed
 * @property {Record<string, unknown>} options
 * @property {{id: string, version: number} | null} plan
 * @property {number} duration
 * @property {Progress | null} progress
 * @property {number} made_seconds
 * @property {number | null} first_audio_seconds
 * @property {number | null} render_seconds
 * @property {{song: string, seconds: number, saved_seconds: number | null} | null} kept
 * @property {Heard | null} heard
 * @property {{of_seed: number, kept: number, scores: unknown[]} | null} [chosen] kept: a seed
 * @property {string[]} warnings
 * @property {string[]} stems
 * @property {string | null} error
 *
 * @typedef {object} Find
 * @property {string} id
 * @property {string} title
 * @property {number} score
 * @property {number} start
 * @property {number} seconds
 * @property {number} duration
 * @property {string | null} key
 * @property {number | null} tempo
 * @property {string | null} prompt
 *
 * @typedef {object} Upload
 * @property {string} id
 * @property {string} name
 * @property {number} duration
 */
export {};
