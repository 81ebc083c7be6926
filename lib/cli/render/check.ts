import type { CheckResult } from '../../edits/check.ts';
import type { CheckReport } from '../../formats/driver.ts';
import type { Json } from './json.ts';

/** What was repaired, before the image is checked once more. */
export function renderRepairs({ leaksFixed, corruptionsFixed }: CheckReport): string {
  return (
    'The following inconsistencies were found and repaired:\n\n' +
    `    ${leaksFixed} leaked clusters\n    ${corruptionsFixed} corruptions\n\n` +
    'Double checking the fixed image now...\n'
  );
}

/** `check` for people. */
export function renderCheck(report: CheckReport): string {
  return `${renderFindings(report)}${renderStatistics(report)}`;
}

function renderFindings({ corruptions, leaks, checkErrors }: CheckReport): string {
  if (corruptions === 0 && leaks === 0 && checkErrors === 0) return 'No errors were found on the image.\n';
  let text = '';
  if (corruptions > 0) {
    text +=
      `\n${corruptions} errors were found on the image.\n` +
      'Data may be corrupted, or further writes to the image may corrupt it.\n';
  }
  if (leaks > 0) {
    text +=
      `\n${leaks} leaked clusters were found on the image.\n` +
      'This means waste of disk space, but no harm to data.\n';
  }
  if (checkErrors > 0) text += `\n${checkErrors} internal errors have occurred during the check.\n`;
  return text;
}

function renderStatistics(report: CheckReport): string {
  const { totalClusters = 0, allocatedClusters = 0, fragmentedClusters = 0, compressedClusters = 0 } = report;
  const { imageEndOffset = 0 } = report;
  let text = '';
  if (totalClusters > 0 && allocatedClusters > 0) {
    text +=
      `${allocatedClusters}/${totalClusters} = ${percent(allocatedClusters, totalClusters)} allocated, ` +
      `${percent(fragmentedClusters, allocatedClusters)} fragmented, ` +
      `${percent(compressedClusters, allocatedClusters)} compressed clusters\n`;
  }
  if (imageEndOffset > 0) text += `Image end offset: ${imageEndOffset}\n`;
  return text;
}

/** With two decimals, as C's printf rounds: what lies exactly between two goes to the even one. */
function percent(part: number, whole: number): string {
  const value = (part * 100) / whole;
  const hundredths = Math.floor(value * 100);
  const isTie = value * 8 === Math.floor(value * 8) && value * 100 - hundredths === 0.5;
  return `${(isTie ? (hundredths + (hundredths % 2)) / 100 : value).toFixed(2)}%`;
}

/** `check --output=json`, in QAPI's names. What is 0 is left out, except for errors of the check. */
export function checkToJson(filename: string, report: CheckResult): Json {
  return {
    filename,
    format: report.format,
    'check-errors': report.checkErrors,
    'image-end-offset': report.imageEndOffset || undefined,
    corruptions: report.corruptions || undefined,
    leaks: report.leaks || undefined,
    'corruptions-fixed': report.corruptionsFixed || undefined,
    'leaks-fixed': report.leaksFixed || undefined,
    'total-clusters': report.totalClusters || undefined,
    'allocated-clusters': report.allocatedClusters || undefined,
    'fragmented-clusters': report.fragmentedClusters || undefined,
    'compressed-clusters': report.compressedClusters || undefined,
  };
}
