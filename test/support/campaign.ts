/** Whether campaigns run in full, as `npm run test:peer` asks for, and not only in part. */
export const fullCampaign = process.env["LAPIDARY_CAMPAIGN"] === "full";

/** Runs of a property: all of them, or a tenth. */
export function campaignRuns(all: number): number {
  return fullCampaign ? all : Math.ceil(all / 10);
}
