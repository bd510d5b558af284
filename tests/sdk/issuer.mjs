// An issuer with keys that come and go: oauth2-mock-server over TLS, told what to do by lines of JSON on stdin.
//
//     node issuer.mjs cert.pem key.pem
//
// {"serve": ["a", "b"]} publishes those keys, made at their first use, at the same port each time; {"stop": true}
// leaves the port; {"sign": "a", "claims": {...}} signs with any key that was ever made. Each line is answered by one.

import { createInterface } from "node:readline";

import { OAuth2Issuer, OAuth2Server } from "oauth2-mock-server";

const [cert, key] = process.argv.slice(2);
const signer = new OAuth2Issuer();
let server = null;
let port = 0;

const stop = async () => {
    await server?.stop();
    server = null;
};

const serve = async (kids) => {
    await stop();
    server = new OAuth2Server(key, cert);
    for (const kid of kids) {
        if (signer.keys.toJSON().every((one) => one.kid !== kid)) {
            await signer.keys.generate("RS256", { kid });
        }
        await server.issuer.keys.add(signer.keys.toJSON(true).find((one) => one.kid === kid));
    }
    await server.start(port, "localhost");
    port = server.address().port;
    signer.url = server.issuer.url;
    return { url: signer.url };
};

const sign = (kid, claims) =>
    signer.buildToken({ kid, scopesOrTransform: (_, payload) => Object.assign(payload, claims) });

for await (const line of createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    let answer = {};
    if (asked.serve) answer = await serve(asked.serve);
    if (asked.stop) await stop();
    if (asked.sign) answer = { token: await sign(asked.sign, asked.claims) };
    console.log(JSON.stringify(answer));
}
await stop();
