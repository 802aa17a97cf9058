// Azurite, ended with its stdin: so that it never outlives the process that started it, however that one ended.
//
//   node azurite.mjs [Azurite's own options]

import process from 'node:process';

process.stdin.resume();
process.stdin.on('error', () => process.exit(0));
process.stdin.on('end', () => process.exit(0));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));

await import('azurite/dist/src/azurite.js');
