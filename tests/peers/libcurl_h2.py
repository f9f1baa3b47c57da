"""Asks for a URL through the peers' door with libcurl over HTTP/2 (PyPI `pycurl`, linked with nghttp2).

Usage: libcurl_h2.py DOOR BUNDLE LEAF KEY URL

Prints JSON: the server's status and body, what libcurl says in verbose mode (the proxy's answer is in it), and the
versions of what was used.
"""

import io
import json
import sys

import pycurl


def main(door, bundle, leaf, key, url):
    log, body = [], io.BytesIO()

    def say(kind, octets):
        if kind == pycurl.INFOTYPE_TEXT:
            log.append(octets.decode().strip())

    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, url)
    curl.setopt(pycurl.TIMEOUT, 30)
    curl.setopt(pycurl.PROXY, f"https://{door}")
    curl.setopt(pycurl.PROXYTYPE, 3)  # CURLPROXY_HTTPS2: HTTP/2 to the proxy
    curl.setopt(pycurl.HTTPPROXYTUNNEL, 1)
    curl.setopt(pycurl.PROXY_CAINFO, bundle)
    curl.setopt(pycurl.PROXY_SSLCERT, leaf)
    curl.setopt(pycurl.PROXY_SSLKEY, key)
    curl.setopt(pycurl.VERBOSE, 1)
    curl.setopt(pycurl.DEBUGFUNCTION, say)
    curl.setopt(pycurl.WRITEFUNCTION, body.write)
    error = None
    try:
        curl.perform()
    except pycurl.error as e:
        error = e.args[1]
    said = {
        "status": curl.getinfo(pycurl.RESPONSE_CODE),
        "log": "\n".join(log),
        "body": body.getvalue().decode(),
        "error": error,
        "with": pycurl.version,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
