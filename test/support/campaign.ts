/** Whether campaigns run in full: `LAPIDARY_CAMPAIGN=full npm test`. */
export const fullCampaign = process.env["LAPIDARY_CAMPAIGN"] === "full";

/** Runs of a property: all of them, or a tenth. */
export function campaignRuns(all: number): number {
  return fullCampaign ? all : Math.ceil(all / 10);
}
